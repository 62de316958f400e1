ALTER TABLE sink_offsets ADD COLUMN topic_id text NOT NULL DEFAULT '';
COMMENT ON COLUMN sink_offsets.topic_id IS 'The ID that Kafka gave the topic when it was made: a topic of the same name that was made anew is another log. Empty until the sink has run once.';
