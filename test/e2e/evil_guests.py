# SPDX-License-Identifier: Apache-2.0
"""Hostile behaviours of a guest: what an agent can say that is wrong. `world` is test_evil.World."""

import time

from evil import hostile
from evil_agent import DATA, HEADER, REQUEST, RESPONSE, data, failure, field, number
from harness import SLOW, eventually, secs

guest = hostile("guest")
FOREVER = lambda link, id, request: True  # noqa: E731 - takes the call, and never answers


def once(function):
    """A lie that is told to the first call only."""
    calls = []

    def lie(link, id, request):
        if calls:
            return False
        calls.append(id)
        function(link, id, request)
        return True
    return lie


def always(function):
    def lie(link, id, request):
        function(link, id, request)
        return True
    return lie


def reply(payload):
    return always(lambda link, id, request: link.answer(id, payload))


def of_an_exec(function):
    """A lie to calls that name an exec (its field has number 2): the container's own are answered by the real agent."""
    def lie(link, id, request):
        return bool(field(request, 2)) and function(link, id, request)
    return lie


def records(*texts, offset=0, eof=False, stream=1):
    out = number(1, offset) + b"".join(data(2, number(1, stream) + data(2, text)) for text in texts)
    return out + (number(3, 1) if eof else b"")


# ---- frames ----------------------------------------------------------------------------------------------------------

@guest
def a_frame_of_4_gib(world):
    """The header of an answer announces 4 GiB."""
    world.victim.lie(ReadLog=of_an_exec(once(
        lambda link, id, request: link.raw(HEADER.pack(0xFFFFFFFF, id, RESPONSE, 0) + b"x" * 4096))))
    world.exec_fails()


@guest
def a_frame_above_the_limit(world):
    """An answer of 5 MiB comes in full; ttrpc allows 4 MiB."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, data(100, bytes(5 << 20))))))
    world.exec_fails()


@guest
def half_a_header(world):
    """Five bytes of a header, then silence."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.raw(b"\0\0\0\x10\0"))))
    world.exec_fails("DeadlineExceeded")


@guest
def half_a_message(world):
    """A header, half of what it announces, then silence."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.raw(HEADER.pack(4000, id, RESPONSE, 0) + bytes(2000)))))
    world.exec_fails("DeadlineExceeded")


@guest
def frames_of_no_type(world):
    """200,000 frames of a type that does not exist, for a call that lives (fault O)."""
    world.victim.lie(Exec=once(lambda link, id, request: link.raw(HEADER.pack(0, id, 9, 0) * 200000)))
    world.exec_fails("Internal", "nobody asked for")


@guest
def answers_that_nobody_asked_for(world):
    """100,000 answers to calls that were never made."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.raw(
        b"".join(HEADER.pack(0, 2 * n + 1000001, RESPONSE, 0) for n in range(100000))))))
    world.exec_fails("Internal", "nobody asked for")


@guest
def calls_to_the_server(world):
    """The guest sends requests of its own: the server serves none, and gives the connection up."""
    body = data(1, "containerd.task.v2.Task") + data(2, "Create") + data(3, data(1, "x" * 64))

    def lie(link, id, request):
        for n in range(1000):
            link.frame(2 * n + 2, REQUEST, body)
        return True
    world.victim.lie(Exec=lie)
    world.exec_fails("Internal", "nobody asked for")


@guest
def a_stream_in_place_of_an_answer(world):
    """Stream data for a call that has one answer."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.frame(id, DATA, b"x" * 1000))))
    world.exec_fails("Internal", "stream data")


@guest
def two_answers_for_one_call(world):
    """The second one has no call any more."""
    def twice(link, id, request):
        link.fail(id, 5, "first")
        link.fail(id, 13, "second")
    world.victim.lie(ReadLog=of_an_exec(once(twice)))
    world.exec_fails("NotFound", "first")
    world.exec()


@guest
def an_answer_without_content(world):
    """A response frame of no bytes where a message with an exit code is due."""
    world.victim.lie(Wait=of_an_exec(once(lambda link, id, request: link.frame(id, RESPONSE))))
    world.exec_or_fails()


# ---- messages --------------------------------------------------------------------------------------------------------

@guest
def an_answer_that_is_no_message(world):
    """Bytes that no protobuf parser takes."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, b"\xff" * 1000))))
    world.exec_fails("Internal", "malformed reply")


@guest
def a_response_that_is_no_message(world):
    """The envelope itself is garbled."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.frame(id, RESPONSE, b"\x0a\xff\xff\xff\xff\x0f" + b"x" * 50))))
    world.exec_fails()


@guest
def groups_within_groups(world):
    """A million nested groups of an unknown field, for parsers that recurse."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, b"\x7b" * (1 << 20)))))
    world.exec_fails("Internal")


@guest
def a_million_empty_records(world):
    """Two bytes each on the wire, a structure each in memory."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, b"\x12\x00" * (1 << 20)))))
    world.exec_fails()


@guest
def a_number_of_the_wrong_type(world):
    """The offset comes as text."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, data(1, "0")))))
    world.exec_fails("Internal")


@guest
def a_number_of_eleven_bytes(world):
    """A varint that does not end within ten bytes."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.answer(id, b"\x08" + b"\x80" * 10 + b"\x01"))))
    world.exec_fails("Internal")


@guest
def words_with_control_characters(world):
    """An error's text would colour a terminal, forge lines of the log, and ends in half a character."""
    words = b"\x1b[31mred\n{\"level\":\"error\",\"msg\":\"forged\"}\r\0 \xe2\x82"
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.frame(id, RESPONSE, failure(13, words)))))
    message = world.exec_fails("Internal", "red")
    world.case.assertNotRegex(message, "[\x00-\x08\x0b-\x1f]")
    world.case.assertNotIn("\n{\"level\":\"error\",\"msg\":\"forged\"", world.server.log_text(world.log_began))


@guest
def words_of_3_mib(world):
    """An error's text fills what a message may hold."""
    world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request: link.fail(id, 13, "long " * 600000))))
    message = world.exec_fails("Internal", "long")
    world.case.assertLess(len(message), 4096)


@guest
def codes_that_do_not_exist(world):
    """Status codes 99 and -1."""
    for code in (99, -1):
        world.victim.lie(ReadLog=of_an_exec(once(lambda link, id, request, code=code: link.fail(id, code, "odd code"))))
        world.exec_fails()


# ---- commands --------------------------------------------------------------------------------------------------------


@guest
def an_exit_code_out_of_range(world):
    """A command ended with 4294967295."""
    world.victim.lie(Wait=of_an_exec(reply(number(1, 0xFFFFFFFF))))
    world.exec_or_fails()


@guest
def output_at_another_offset(world):
    """A command's output begins at 2^62."""
    world.victim.lie(ReadLog=of_an_exec(reply(records(b"x", offset=1 << 62))))
    world.exec_fails("Internal", "wrong offset")


@guest
def output_without_end(world):
    """A command prints 64 KiB for each question, for ever: the time ends it, and what exceeds the cap is dropped."""
    sent = [0]

    def more(link, id, request):
        link.answer(id, records(bytes(65536), offset=sent[0]))
        sent[0] += 65536
        return True
    world.victim.lie(ReadLog=of_an_exec(more), Ack=of_an_exec(reply(b"")))
    world.exec_fails("DeadlineExceeded")


@guest
def output_that_never_comes(world):
    """The agent says at once that there is no output yet, each time it is asked: it may not keep a thread of the server busy."""
    asked = [0]

    def nothing(link, id, request):
        asked[0] += 1
        link.answer(id, records())
        return True
    world.victim.lie(ReadLog=of_an_exec(nothing))
    world.exec_fails("DeadlineExceeded", seconds=2)
    world.case.assertLess(asked[0], 100, "the server asks without a pause")


@guest
def output_of_no_stream(world):
    """Output of stream 77."""
    world.victim.lie(ReadLog=of_an_exec(reply(records(b"x", stream=77, eof=True))))
    world.exec_or_fails()


@guest
def a_command_that_never_begins(world):
    """Start of an exec is not answered: others are served meanwhile, and the pod can be removed."""
    world.victim.lie(Start=of_an_exec(FOREVER))
    world.exec_hangs()


@guest
def a_command_that_cannot_be_killed(world):
    """Its output never ends, and neither Kill nor Delete is answered: others are served, and the pod can be removed."""
    world.victim.lie(ReadLog=of_an_exec(FOREVER), Kill=FOREVER, Delete=of_an_exec(FOREVER), State=FOREVER)
    world.exec_hangs()


# ---- logs ------------------------------------------------------------------------------------------------------------

@guest
def a_log_that_jumps(world):
    """Records at a lower offset than those before: they do not continue the log, which ends."""
    container = world.victim.pod.run(["sh", "-c", "while :; do echo line; sleep 0.1; done"])
    eventually(lambda: container.log_lines(), 20, "no log")
    world.victim.lie(ReadLog=reply(records(b"forged\n", offset=0)))
    eventually(lambda: "do not continue it" in world.server.log_text(world.log_began), 40, "it was taken")
    world.case.assertNotIn("forged", container.logs())
    world.discard(container)


@guest
def a_log_of_nothing_at_once(world):
    """The agent answers at once that a running container printed nothing: the server may not ask without a pause."""
    asked = [0]

    def nothing(link, id, request):
        asked[0] += 1
        at = field(request, 3, 0)
        link.answer(id, records(offset=at))
        return True
    container = world.victim.pod.run(["sleep", "1000"])
    world.victim.lie(ReadLog=nothing)
    world.victim.agent.cut()
    eventually(lambda: asked[0] > 0, 20, "it was not asked")
    asked[0] = 0
    time.sleep(1)
    world.case.assertLess(asked[0], 50)
    world.discard(container)


@guest
def a_log_of_odd_bytes(world):
    """Output with NUL, carriage returns, escapes and no line end: each line of the file still has the CRI's form."""
    noise = b"\0\x1b[2J\r\xff\xfe" * 1000 + b"\n\n\n" + b"2020-01-01T00:00:00Z stdout F forged\n" + b"y" * 40000
    container = world.victim.pod.create(["sleep", "1000"])
    sent = []

    def lie(link, id, request):
        sent.append(1)
        at = field(request, 3, 0)
        link.answer(id, records(noise, offset=0, eof=True) if at == 0 else records(offset=at, eof=True))
        return True
    world.victim.lie(ReadLog=lie)
    container.start()
    eventually(lambda: container.log_file.exists() and container.log_file.stat().st_size > 40000, 20, "it was not written")
    for stream, tag, text in container.log_lines():
        world.case.assertIn((stream, tag), (("stdout", "F"), ("stdout", "P")))
    world.discard(container)


# ---- the life of containers ------------------------------------------------------------------------------------------

@guest
def an_exit_of_what_runs(world):
    """The agent says that a container has ended with 2^31, in the year 292277026596; it runs on, and goes with its removal."""
    container = world.victim.pod.create(["sleep", "1000"])
    world.victim.lie(Wait=reply(number(1, 1 << 31) + data(2, number(1, (1 << 63) - 1) + number(2, 0x7FFFFFFF))))
    container.start()
    status = container.wait(20)
    world.case.assertTrue(status["finishedAt"].startswith(time.strftime("%Y", time.gmtime())), status)
    world.victim.agent.honest()
    world.discard(container)


@guest
def a_container_that_was_never_made(world):
    """Create succeeds without doing anything; Start then finds nothing."""
    world.victim.lie(Create=reply(number(1, 4194303)))
    container = world.victim.pod.create(["sleep", "1000"])
    world.victim.agent.honest()
    world.fails(None, container.start)
    world.discard(container)


@guest
def a_creation_that_is_not_answered(world):
    """Create is silent: the caller leaves, and others are served meanwhile."""
    world.victim.lie(Create=FOREVER)
    world.fails("DeadlineExceeded", world.create_within, 3)
    world.victim.spoiled = True


@guest
def a_start_that_fails_in_many_words(world):
    """Start fails with words of 1 MiB and a code of its own."""
    world.victim.lie(Start=once(lambda link, id, request: link.fail(id, 77, "no " * 350000)))
    container = world.victim.pod.create(["sleep", "1000"])
    world.fails(None, container.start)
    world.discard(container)


@guest
def a_container_that_nobody_knows(world):
    """Wait says that there is no such container: its exit is unknown, with code 255."""
    container = world.victim.pod.create(["sleep", "1000"])
    world.victim.lie(Wait=always(lambda link, id, request: link.fail(id, 5, "who?")))
    container.start()
    status = container.wait(20)
    world.case.assertEqual((int(status["exitCode"]), status["reason"]), (255, "ContainerStatusUnknown"))
    world.victim.agent.honest()
    world.discard(container)


@guest
def waits_that_fail(world):
    """Wait fails with an error that says nothing of the connection: the pod is condemned, and its containers end with 137."""
    container = world.victim.pod.create(["sleep", "1000"])
    world.victim.lie(Wait=always(lambda link, id, request: link.fail(id, 13, "no")))
    world.victim.spoiled = True
    container.start()
    world.case.assertEqual(int(container.wait(20)["exitCode"]), 137)


@guest
def an_oom_kill_that_was_none(world):
    """A container's figures are all 2^64-1."""
    everything = b"".join(number(n, (1 << 64) - 1) for n in (*range(1, 11), 12))
    world.victim.lie(Stats=reply(everything))
    container = world.victim.pod.run(["sh", "-c", "exit 3"])
    world.case.assertEqual(int(container.wait(20)["exitCode"]), 3)
    world.discard(container)


@guest
def a_removal_that_is_refused(world):
    """Delete always fails: RemoveContainer says so, and the pod's removal takes the container along."""
    container = world.victim.pod.run(["sleep", "1000"])
    world.victim.lie(Delete=always(lambda link, id, request: link.fail(id, 13, "never")))
    world.fails(None, container.remove, force=True)
    world.victim.spoiled = True


# ---- the pod ---------------------------------------------------------------------------------------------------------

@guest
def another_boot(world):
    """After a lost connection the guest says that it has booted anew: what ran there is gone, so the pod is dead."""
    def twist(payload):
        return payload + data(2, "11111111-2222-3333-4444-555555555555")
    victim = world.victim
    victim.agent.twists["Info"] = twist
    victim.spoiled = True
    victim.agent.cut()
    eventually(lambda: victim.pod.status()["state"] == "SANDBOX_NOTREADY", 40, "the pod is still ready")


@guest
def a_connection_that_never_holds(world):
    """Each connection is closed at once: the server dials again, ever more slowly, and serves others."""
    victim = world.victim
    victim.agent.greet = lambda client: client.close()
    victim.agent.cut()
    before = victim.agent.connections
    time.sleep(secs(2))
    world.case.assertLess(victim.agent.connections - before, 440 * SLOW, "the server dials without a pause")  # 5 ms each
    victim.agent.honest()
    world.exec()


@guest
def a_greeting_without_end(world):
    """In place of `OK` and a number come letters without a line end."""
    def greet(client):
        while True:
            client.sendall(b"O" * 65536)
    victim = world.victim
    victim.agent.greet = greet
    victim.agent.cut()
    eventually(lambda: victim.agent.told.get("connect"), 20, "the server has not dialled")
    time.sleep(1)
    victim.agent.honest()
    world.exec()


@guest
def no_greeting(world):
    """A connection is taken, and nothing is said: the server's other work goes on."""
    victim, held = world.victim, []
    victim.agent.greet = held.append
    victim.agent.cut()
    eventually(lambda: held, 20, "the server has not dialled")
    world.check()
    victim.agent.honest()
    for client in held:
        client.close()
    world.exec()


@guest
def a_pod_that_stops_without_a_word(world):
    """Shutdown is never answered: the stop ends within its own bound."""
    victim = world.victim
    victim.lie(Shutdown=FOREVER)
    victim.spoiled = True
    began = time.monotonic()
    victim.pod.stop()
    victim.pod.remove()
    world.case.assertLess(time.monotonic() - began, secs(45))


@guest
def a_pod_that_lies_at_its_end(world):
    """Shutdown says that all was written, with four billion containers left."""
    victim = world.victim
    victim.lie(Shutdown=reply(number(1, 1) + number(2, 1) + number(3, 0xFFFFFFFF)))
    victim.spoiled = True
    victim.pod.stop()
    victim.pod.remove()


@guest
def a_server_that_starts_under_a_liar(world):
    """The server starts again while the agent says of every container that it is in state 99, and of itself nothing true (fault B)."""
    victim = world.victim
    victim.lie(State=reply(data(1, "x" * 64) + number(3, 0xFFFFFFFF) + number(4, 99) + number(9, 1 << 31)))
    victim.spoiled = True
    world.restart()


@guest
def a_server_that_starts_under_a_silent_one(world):
    """The server starts again while the agent answers Info and never State: it is ready in time, and other pods are adopted (fault B)."""
    victim = world.victim
    victim.lie(State=FOREVER, Wait=FOREVER)
    victim.spoiled = True
    began = time.monotonic()
    world.restart()
    world.case.assertLess(time.monotonic() - began, secs(30))


# ---- boots -----------------------------------------------------------------------------------------------------------

@guest
def an_agent_of_many_features(world):
    """Info names 100,000 features and a version of 1 MiB."""
    world.boot_or_fails(Info=lambda payload: payload + data(1, "v" * (1 << 20)) + data(3, "f") * 100000)


@guest
def a_boot_id_of_64_kib(world):
    """Info's boot id is long, and not text."""
    world.boot_or_fails(Info=lambda payload: payload + data(2, b"\x1b\xff\n" * 21845))


@guest
def a_clock_before_all_time(world):
    """SyncClock says that the guest lives at -2^63 and 2^63-1 (clock nonsense)."""
    low, high = -(1 << 63), (1 << 63) - 1
    world.boot_or_fails(SyncClock=lambda payload: number(1, low) + number(2, low) + number(3, high) + number(4, high) + number(5, low))


@guest
def a_set_up_that_is_refused(world):
    """SetupSandbox fails with words of 100 KiB: RunPodSandbox fails with the beginning of them, and nothing is left."""
    message = world.boot_fails("Internal", "mine is mine", SetupSandbox=always(
        lambda link, id, request: link.fail(id, 13, "mine is mine " + "x" * 100000)))
    world.case.assertLess(len(message), 4096)


@guest
def figures_of_a_boot_that_cannot_be(world):
    """Info's memory and times are 2^64-1."""
    world.boot_or_fails(Info=lambda payload: payload + b"".join(number(n, (1 << 64) - 1) for n in (5, 6, 7, 8)))

