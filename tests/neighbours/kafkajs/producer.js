// Sends records with kafkajs. Standard input has one JSON object: {"servers", "topic", "gzip", "partitioner",
// "records": [{"key", "value"}]}, where `partitioner` is "default", "java" or "legacy".
// Standard output gets a JSON array: the partition of each record, in the order of the records.

const { readFileSync } = require('node:fs')
const { CompressionTypes, Kafka, Partitioners, logLevel } = require('kafkajs')

const PARTITIONERS = {
  default: Partitioners.DefaultPartitioner,
  java: Partitioners.JavaCompatiblePartitioner,
  legacy: Partitioners.LegacyPartitioner,
}

async function send(job) {
  const partitionOf = new Map()
  const createPartitioner = () => {
    const choose = PARTITIONERS[job.partitioner]()
    return question => {
      const partition = choose(question)
      partitionOf.set(question.message, partition)
      return partition
    }
  }
  const client = new Kafka({ clientId: 'neighbour', brokers: job.servers.split(','), logLevel: logLevel.ERROR })
  const producer = client.producer({ createPartitioner })
  await producer.connect()
  await producer.send({
    topic: job.topic,
    acks: -1,
    compression: job.gzip ? CompressionTypes.GZIP : CompressionTypes.None,
    messages: job.records,
  })
  await producer.disconnect()
  return job.records.map(record => partitionOf.get(record))
}

send(JSON.parse(readFileSync(0, 'utf8'))).then(partitions => process.stdout.write(JSON.stringify(partitions)))
