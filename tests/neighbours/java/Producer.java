import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Apache Kafka's own producer, told by JSON what to send: one job per line of standard input, one answer per line of
 * standard output. It ends when its standard input does; transactions that are open then stay open at the broker.
 *
 * <p>A job that sends: {@code {"topic", "settings": {…}, "batches": [{"records": [{"partition", "key", "value",
 * "padding"}], "end"}]}}. The records of a batch are flushed together. With a {@code transactional.id} among the
 * settings each batch is a transaction, and {@code end} is {@code commit}, {@code abort} or {@code open}.
 * {@code {padding}} in a value becomes so many letters x. The answer: {@code {"offsets": […]}}, in the records' order.
 *
 * <p>A job that ends an open transaction: {@code {"finish": transactional id, "end": "commit" | "abort"}}.
 */
public final class Producer {
    private static final String PADDING = "{padding}";

    private final ObjectMapper json = new ObjectMapper();
    private final Map<String, KafkaProducer<byte[], byte[]>> open = new HashMap<>();

    public static void main(String[] arguments) throws IOException {
        new Producer().serve();
    }

    private void serve() throws IOException {
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            System.out.println(json.writeValueAsString(answer(json.readTree(line))));
            System.out.flush();
        }
        // No `close`: it would abort what is open.
        Runtime.getRuntime().halt(0);
    }

    private ObjectNode answer(JsonNode job) {
        try {
            return job.has("finish") ? finish(job) : send(job);
        } catch (Exception error) {
            return json.createObjectNode().put("error", String.valueOf(error));
        }
    }

    private ObjectNode finish(JsonNode job) {
        try (var producer = open.remove(job.get("finish").asText())) {
            end(producer, job.get("end").asText());
        }
        return json.createObjectNode();
    }

    private ObjectNode send(JsonNode job) throws Exception {
        var producer = new KafkaProducer<>(settings(job), new ByteArraySerializer(), new ByteArraySerializer());
        String transactionalId = job.get("settings").path("transactional.id").asText("");
        boolean staysOpen = false;
        try {
            if (!transactionalId.isEmpty()) {
                producer.initTransactions();
            }
            ArrayNode offsets = json.createArrayNode();
            for (JsonNode batch : job.get("batches")) {
                String end = batch.path("end").asText("");
                if (!transactionalId.isEmpty()) {
                    producer.beginTransaction();
                }
                sendBatch(producer, job.get("topic").asText(), batch.get("records"), offsets);
                staysOpen = end.equals("open");
                if (!transactionalId.isEmpty() && !staysOpen) {
                    end(producer, end);
                }
            }
            return json.createObjectNode().set("offsets", offsets);
        } finally {
            if (staysOpen) {
                open.put(transactionalId, producer);
            } else {
                producer.close();
            }
        }
    }

    private void sendBatch(KafkaProducer<byte[], byte[]> producer, String topic, JsonNode records, ArrayNode offsets)
            throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode record : records) {
            byte[] key = record.get("key").asText().getBytes(StandardCharsets.UTF_8);
            byte[] value = padded(record.get("value").asText(), record.get("padding").asInt());
            Integer partition = record.get("partition").isNull() ? null : record.get("partition").asInt();
            sent.add(producer.send(new ProducerRecord<>(topic, partition, key, value)));
        }
        producer.flush();
        for (Future<RecordMetadata> each : sent) {
            offsets.add(each.get().offset());
        }
    }

    private static void end(KafkaProducer<byte[], byte[]> producer, String how) {
        if (how.equals("commit")) {
            producer.commitTransaction();
        } else {
            producer.abortTransaction();
        }
    }

    private static byte[] padded(String value, int padding) {
        int at = value.indexOf(PADDING);
        if (at < 0) {
            return value.getBytes(StandardCharsets.UTF_8);
        }
        byte[] before = value.substring(0, at).getBytes(StandardCharsets.UTF_8);
        byte[] after = value.substring(at + PADDING.length()).getBytes(StandardCharsets.UTF_8);
        byte[] whole = new byte[before.length + padding + after.length];
        Arrays.fill(whole, (byte) 'x');
        System.arraycopy(before, 0, whole, 0, before.length);
        System.arraycopy(after, 0, whole, before.length + padding, after.length);
        return whole;
    }

    private Properties settings(JsonNode job) {
        var settings = new Properties();
        settings.put("acks", "all");
        // Records of a job that go to one partition become one batch, which `flush` sends.
        settings.put("linger.ms", "60000");
        settings.put("delivery.timeout.ms", "120000");
        settings.put("batch.size", String.valueOf(1024 * 1024));
        settings.put("buffer.memory", String.valueOf(512L * 1024 * 1024));
        settings.put("max.request.size", String.valueOf(512 * 1024 * 1024));
        for (var setting : job.get("settings").properties()) {
            settings.put(setting.getKey(), setting.getValue().asText());
        }
        return settings;
    }
}
