"""Speaking AMQP: the contracts (`base`), RabbitMQ through pika (`loop`), a broker in memory (`memory`)."""
