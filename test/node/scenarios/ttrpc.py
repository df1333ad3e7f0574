# SPDX-License-Identifier: Apache-2.0
"""A minimal ttrpc client: one call at a time, messages as lists of (field, bytes or int).

Frames as in containerd/ttrpc's PROTOCOL.md; the envelope is its request.proto, messages are those of api/agent.
"""

import struct

REQUEST, RESPONSE, DATA = 1, 2, 3
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4
OK, NOT_FOUND, UNIMPLEMENTED = 0, 5, 12


def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes([*out, value])


def pack(fields):
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def unpack(data):
    """{field: last value}. Decodes varints and length-delimited fields only."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        elif key & 7 == 2:
            length = number()
            found[key >> 3] = data[at:at + length]
            at += length
        else:
            raise AssertionError(f"wire type {key & 7} in {data!r}")
    return found


class Client:
    """Owns its connected socket."""

    def __init__(self, sock):
        self.sock, self.stream = sock, -1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.sock.close()

    def send(self, kind, flags, payload):
        self.sock.sendall(struct.pack(">IIBB", len(payload), self.stream, kind, flags) + payload)

    def receive(self):
        def exactly(count):
            data = b""
            while len(data) < count:
                more = self.sock.recv(count - len(data))
                if not more:
                    raise AssertionError("the agent closed the connection")
                data += more
            return data
        length, stream, kind, _ = struct.unpack(">IIBB", exactly(10))
        assert stream == self.stream, f"an answer on stream {stream}, not {self.stream}"
        return kind, exactly(length)

    def open(self, service, method, fields, flags):
        self.stream += 2
        self.send(REQUEST, flags, pack([(1, service), (2, method), (3, pack(fields))]))

    def answer(self):
        """(status code, its message, fields of the answer) of the final response."""
        kind, payload = self.receive()
        assert kind == RESPONSE, f"a frame of type {kind}"
        response = unpack(payload)
        status = unpack(response.get(1, b""))
        return status.get(1, OK), status.get(2, b"").decode(), unpack(response.get(2, b""))

    def call(self, service, method, fields=()):
        self.open(service, method, fields, 0)
        return self.answer()
