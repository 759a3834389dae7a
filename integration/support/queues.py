"""What a queue looks like from outside: as the broker itself counts, not a client of ours."""

from broker import PrivateNode


def unacknowledged(node: PrivateNode, vhost: str, queue: str) -> int:
    """How many messages of a quorum queue consumers hold at this moment.

    What `rabbitmqctl list_queues` says of it may be five seconds old, and costs the start of an Erlang VM.
    """
    told = node.eval(
        f'{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
        "Count = fun(Query) -> "
        "{ok, {_, Number}, _} = ra:local_query(amqqueue:get_pid(Queue), Query), Number end, "
        "Count(fun rabbit_fifo:query_messages_total/1) - Count(fun rabbit_fifo:query_messages_ready/1)"
    )
    return int(told)
