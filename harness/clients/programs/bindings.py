# SPDX-License-Identifier: GPL-3.0-or-later
"""Uses what `llama-orch bindings python` wrote of the suite's server, and writes a line of JSON about each case. The file is checked by pyright too."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
import urllib.request
from typing import Callable, List

import served

base, test = os.environ["LLORCH_BASE"], os.environ["LLORCH_TEST"]
prompt = 'Write a haiku about tea containing "ten past two".\n\n'


def restart() -> None:
    with urllib.request.urlopen(urllib.request.Request(test + "/restart", method="POST")) as answer:
        answer.read()


def caught(act: Callable[[], object]) -> served.LlamaOrchError:
    try:
        act()
    except served.LlamaOrchError as e:
        return e
    raise AssertionError("nothing was raised")


def text(events: List[served.Event]) -> str:
    return "".join(e.data["t"] for e in events if e.name == "token")


def a_task_and_its_receipt() -> None:
    with served.Client(base) as llama:
        events = list(llama.run({"model_ref": served.MODEL_HAIKU, "prompt": prompt, "seed": 42}))
        started, end = events[0], events[-1]
        assert started.name == "started" and started.data["seed"] == 42
        assert end.name == "end" and end.data["tokens_out"] > 3
        assert hashlib.sha256(text(events).encode()).hexdigest() == end.data["receipt"]["transcript_sha256"]
        status = llama.get_task(started.data["task_id"])
        assert status["state"] == "completed"
        assert status.get("end", {}).get("receipt") == end.data["receipt"]


def a_stream_goes_on_behind_an_event() -> None:
    with served.Client(base) as llama:
        task = llama.create_task({"model_ref": "haiku", "prompt": prompt})["task_id"]
        whole = [e for e in llama.stream_task(task) if e.name != "metrics"]
        assert list(llama.stream_task(task, after=whole[3].id)) == whole[4:]
        assert list(llama.stream_task(task, after=whole[-1].id)) == []


def a_stream_survives_a_kill() -> None:
    with served.Client(base, delay=0.05, reconnects=40) as llama:
        task = llama.create_task({"model_ref": "slow-haiku", "prompt": prompt, "seed": 42})["task_id"]
        events: List[served.Event] = []
        for event in llama.stream_task(task):
            if event.name != "metrics":
                events.append(event)
                if len(events) == 5:
                    restart()
        assert [int(e.id.partition("-")[0]) for e in events] == list(range(len(events)))
        assert events == [e for e in llama.stream_task(task) if e.name != "metrics"]


def a_loop_that_is_left_cancels() -> None:
    with served.Client(base) as llama:
        task = ""
        events = llama.run({"model_ref": "slow-haiku", "prompt": prompt, "placement": {"mode": "pin", "pool_id": "slow"}})
        for event in events:
            if event.name == "started":
                task = event.data["task_id"]
            if event.name == "token":
                break
        events.close()
        assert llama.get_task(task)["state"] == "canceled"
        e = caught(lambda: list(llama.stream_task(task)))
        assert isinstance(e, served.APIError) and e.code == "CANCELED" and e.status == 0
        assert llama.cancel_task(task)["outcome"] == "canceled"


def refusals_are_typed() -> None:
    with served.Client(base) as llama:
        e = caught(lambda: llama.get_task("nobody"))
        assert isinstance(e, served.APIError) and (e.status, e.code, e.retriable) == (404, "NOT_FOUND", False) and e.correlation_id
        wait: served.TaskRequest = {"model_ref": "narrow", "prompt": "Wait for me"}
        tasks = [llama.create_task(wait)["task_id"]]
        while llama.get_task(tasks[0])["state"] != "running":
            pass
        tasks.append(llama.create_task(wait)["task_id"])
        e = caught(lambda: llama.create_task(wait))
        assert isinstance(e, served.APIError) and (e.status, e.code, e.retriable) == (429, "ADMISSION_REJECT", True), e
        assert e.retry_after and e.retry_after > 0 and e.envelope.get("policy_label") == "reject"
        for task in tasks:
            llama.cancel_task(task)
    e = caught(lambda: llama.list_pools())
    assert "closed" in str(e)
    assert isinstance(caught(lambda: served.Client("http://127.0.0.1:9").list_pools()), served.UnreachableError)
    assert isinstance(caught(lambda: served.Client(test).list_pools()), served.ProtocolError)


def the_other_planes() -> None:
    with served.Client(base) as llama:
        assert sorted(p["id"] for p in llama.list_pools()["pools"]) == sorted(served.POOLS)
        assert llama.get_pool_health("fast")["replicas"][0]["state"] == "ready"
        assert llama.explain_placement({"model_ref": "haiku"}).get("pool_id") == "fast"
        assert llama.get_capabilities()["api_version"] == served.API_VERSION
        artifact = llama.create_artifact({"kind": "plan", "content": "# Pläne", "tags": ["draft"]})
        assert llama.get_artifact_content(artifact["id"]) == "# Pläne".encode()
        assert artifact in llama.list_artifacts(kind="plan", tag="draft", limit=5)["artifacts"]
        assert llama.get_readiness()["status"] == "ready"
        assert "# TYPE" in llama.get_metrics()
        session = llama.create_session({"max_turns": 2})["session_id"]
        assert llama.delete_session(session) is None
        vectors = llama.run({"model_ref": served.MODEL_VECTORS, "workload": "embedding", "inputs": ["tea"]})
        assert any(e.name == "end" and e.data.get("result") for e in vectors)


for case in (
    a_task_and_its_receipt,
    a_stream_goes_on_behind_an_event,
    a_loop_that_is_left_cancels,
    refusals_are_typed,
    the_other_planes,
    a_stream_survives_a_kill,
):
    detail = ""
    try:
        case()
    except Exception:
        detail = traceback.format_exc()
    print(json.dumps({"name": case.__name__.replace("_", " "), "ok": not detail, "detail": detail}), flush=True)
