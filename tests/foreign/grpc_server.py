"""A gRPC server of bytes, by grpcio: each kind of call once. Says `ready PORT`."""

import sys
import threading
import time
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    return request


def meta(request, context):
    told = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", told.get("x-ask", "")),))
    context.set_trailing_metadata((("x-trailing", told.get("x-ask", "")), ("x-bytes-bin", b"\x00\xff")))
    return told.get("x-skein-source", "").encode()


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: caf\u00e9 100%")


def slow(request, context):
    while context.is_active():
        time.sleep(0.02)
    cancelled.set()
    return b""


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(5) else b"no"


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return str(sum(len(one) for one in requests)).encode()


def bidi(requests, context):
    for one in requests:
        yield b"re:" + one


def bidi_slow(requests, context):
    # Speaks first, and never ends by itself.
    yield b"hello"
    for one in requests:
        yield one
    cancelled.set()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Meta": grpc.unary_unary_rpc_method_handler(meta),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "BidiFirst": grpc.stream_stream_rpc_method_handler(bidi_slow),
}

server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=16),
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", HANDLERS),))
port = server.add_insecure_port(sys.argv[1] + ":0")
server.start()
print("ready", port, flush=True)
server.wait_for_termination()
