"""How this process talks to Kafka: connection, producer, topics."""
