"""The ingress: validates, authenticates, publishes, acknowledges once Kafka has, and brings replies to whoever waits.
It never retrieves or generates."""
