"""Everything around the pipeline: settings, the composition root, the command line, Kafka, local servers, benches."""
