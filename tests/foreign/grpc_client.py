"""A gRPC client by grpcio: every kind of call against ADDRESS, one line for each that is right."""

import hashlib
import queue
import sys
import time

import grpc

channel = grpc.insecure_channel(
    sys.argv[1],
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")
    print("ok", what, flush=True)


def unary(name, **how):
    return channel.unary_unary("/t.T/" + name, **how)


expect("unary", unary("Unary")(b"hello", timeout=10), b"hello")
expect("empty", unary("Unary")(b"", timeout=10), b"")
large = hashlib.sha256(b"seed").digest() * (20 * 1024 * 1024 // 32)
expect("large", hashlib.sha256(unary("Unary")(large, timeout=60)).digest(), hashlib.sha256(large).digest())

answer, call = unary("Meta").with_call(b"", timeout=10, metadata=(("x-ask", "value"),))
expect("initial metadata", dict(call.initial_metadata()).get("x-initial"), "value")
expect("trailing metadata", dict(call.trailing_metadata()).get("x-trailing"), "value")
expect("binary metadata", dict(call.trailing_metadata()).get("x-bytes-bin"), b"\x00\xff")
print("source", answer.decode(), flush=True)

try:
    unary("Fail")(b"", timeout=10)
    sys.exit("Fail did not fail")
except grpc.RpcError as error:
    expect("status", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
    expect("status message", error.details(), "not now: caf\u00e9 100%")
    expect("status metadata", dict(error.trailing_metadata()).get("x-why"), "because")
try:
    unary("None")(b"", timeout=10)
    sys.exit("an unknown method was answered")
except grpc.RpcError as error:
    expect("unknown method", error.code(), grpc.StatusCode.UNIMPLEMENTED)

streamed = channel.unary_stream("/t.T/ServerStream")(b"500", timeout=20)
expect("server streaming", [int(one) for one in streamed], list(range(500)))
total = channel.stream_unary("/t.T/ClientStream")((b"x" * 1000 for _ in range(500)), timeout=20)
expect("client streaming", total, b"500000")

# One at a time: each answer must come before the next is sent.
requests = queue.Queue()
answers = channel.stream_stream("/t.T/Bidi")(iter(requests.get, None), timeout=20)
for number in range(50):
    requests.put(str(number).encode())
    expect_one = next(answers)
    if expect_one != b"re:" + str(number).encode():
        sys.exit(f"bidi: {expect_one!r}")
requests.put(None)
expect("bidirectional streaming", list(answers), [])

requests = queue.Queue()
answers = channel.stream_stream("/t.T/BidiFirst")(iter(requests.get, None), timeout=20)
expect("the server speaks first", next(answers), b"hello")
answers.cancel()
requests.put(None)

started = time.monotonic()
try:
    unary("Slow")(b"", timeout=0.3)
    sys.exit("Slow was answered")
except grpc.RpcError as error:
    expect("deadline", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
future = unary("Slow").future(b"")
time.sleep(0.2)
future.cancel()
expect("cancel reaches the server", unary("WasCancelled")(b"", timeout=10), b"yes")
print("all right", flush=True)
