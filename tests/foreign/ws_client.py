"""A WebSocket client by `websockets`. With `once`: text, bytes, large, ping, and a close in order.
With `hold`: a message every 50 ms until a line comes on standard input; then how many it was."""

import asyncio
import sys

from websockets.asyncio.client import connect


async def once(url):
    async with connect(url, max_size=None) as socket:
        for message in ("text", b"bytes", "x" * 100_000, b"\x00" * 5_000_000):
            await socket.send(message)
            if await socket.recv() != message:
                sys.exit("another message came back")
        await (await socket.ping())
    print("closed", socket.close_code, flush=True)


async def hold(url):
    count = 0
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with connect(url) as socket:
        print("open", flush=True)
        while not end.done():
            await socket.send(str(count))
            if await asyncio.wait_for(socket.recv(), 10) != str(count):
                sys.exit("another message came back")
            count += 1
            await asyncio.sleep(0.05)
    print("held", count, "closed", socket.close_code, flush=True)


asyncio.run({"once": once, "hold": hold}[sys.argv[1]](sys.argv[2]))
