#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that the card (README.md) is true of haiku.gguf on this machine.

Needs Python 3.9 or later and nothing else for the file itself. For what the model writes it needs an engine, or both:

    check.py                                     # the file: checksum, metadata, tensors
    check.py --llama-server PATH                 # also on a llama-server (`go tool mage engine:llamaServer`)
    check.py --worker "orchestratord worker --libs DIR"     # also on the built-in worker (DIR: `go tool mage engine:libs`)

The engines are started here, with 1 and with 2 threads, on loopback ports of their own. About a minute for each engine.
Exits 1 when the file is another one, or when the asked-for minute is missing from an answer.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import random
import shlex
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
import corpus  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "haiku.gguf")
SHA256 = "f7532452c84534d102b6c3f8a796dbafbf2cb6c963a79a0654b4fd9cecbe742e"
KEY = "check"
failed = []


def say(what, *values):
    print("%-46s" % what, *values, flush=True)


def expect(what, got, want):
    ok = got == want
    say(what, got, "" if ok else "  <-- the card says %s" % (want,))
    if not ok:
        failed.append(what)


# ------------------------------------------------------------------ the file

class Gguf:
    """Metadata and tensor shapes of a GGUF version 3 file."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 4
        assert self.data[:4] == b"GGUF", "not a GGUF file"
        self.version, tensors, fields = self.num("I"), self.num("Q"), self.num("Q")
        self.meta = {}
        for _ in range(fields):
            key = self.text()
            self.meta[key] = self.value(self.num("I"))
        self.tensors = {}
        for _ in range(tensors):
            name = self.text()
            dims = [self.num("Q") for _ in range(self.num("I"))]
            self.tensors[name] = (dims, self.num("I"))
            self.num("Q")

    def num(self, fmt):
        out = struct.unpack_from("<" + fmt, self.data, self.at)[0]
        self.at += struct.calcsize("<" + fmt)
        return out

    def text(self):
        n = self.num("Q")
        out = self.data[self.at:self.at + n].decode()
        self.at += n
        return out

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.num("I"), self.num("Q")
            return [self.value(kind) for _ in range(n)]
        return self.num("BbHhIif?__QqD"[kind].replace("D", "d"))


def check_file():
    g = Gguf(MODEL)
    m = g.meta
    expect("bytes", len(g.data), 2294240)
    expect("SHA-256", hashlib.sha256(g.data).hexdigest(), SHA256)
    expect("GGUF version", g.version, 3)
    expect("architecture", m["general.architecture"], "llama")
    expect("layers, width, heads, feed-forward, context",
           [m["llama." + k] for k in ("block_count", "embedding_length", "attention.head_count", "feed_forward_length", "context_length")],
           [4, 128, 4, 384, 256])
    expect("head size", m["llama.rope.dimension_count"], 32)
    expect("output tied to the embedding", "output.weight" not in g.tensors, True)
    expect("biases", [t for t in g.tensors if t.endswith("bias")], [])
    count = 0
    kinds = {"norm": set(), "matrix": set()}
    for name, (dims, kind) in g.tensors.items():
        n = 1
        for d in dims:
            n *= d
        count += n
        kinds["norm" if len(dims) == 1 else "matrix"].add(kind)
    expect("parameters", count, 1115264)
    expect("storage of matrices and norms (1: F16, 0: F32)", (kinds["matrix"], kinds["norm"]), ({1}, {0}))
    expect("tokens, tokenizer, pre-tokenizer", (len(m["tokenizer.ggml.tokens"]), m["tokenizer.ggml.model"], m["tokenizer.ggml.pre"]),
           (2048, "gpt2", "gpt-2"))
    expect("BOS, EOS, BOS is added", (m["tokenizer.ggml.bos_token_id"], m["tokenizer.ggml.eos_token_id"], m["tokenizer.ggml.add_bos_token"]),
           (0, 1, True))
    expect("licence", m["general.license"], "GPL-3.0-or-later")
    expect("topic lists, topic names, words with syllables", (len(corpus.THEMES), len(corpus.KNOWN), len(corpus.SYLLABLES)), (70, 400, 1776))


# --------------------------------------------------------------- the engines

class Engine:
    """A running engine. Leaves nothing behind when the block ends."""

    def __init__(self, kind, command, threads, slots=1):
        self.kind, self.threads, self.slots = kind, threads, slots
        args = shlex.split(command) if kind == "worker" else [command]
        if kind == "worker":
            args += ["--model", MODEL, "--ctx", "256", "--threads", str(threads)]
        else:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            args += ["-m", MODEL, "-c", str(256 * slots), "--parallel", str(slots), "-t", str(threads), "--cache-ram", "0", "--port", str(port)]
        self.started = time.monotonic()
        self.process = subprocess.Popen(args, env=dict(os.environ, LLAMA_API_KEY=KEY), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE if kind == "worker" else subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kind == "worker":
            line = self.process.stdout.readline()
            if not line:
                sys.exit("the worker did not start: " + " ".join(args))
            self.url = "http://" + json.loads(line)["listening"]
        else:
            self.url = "http://127.0.0.1:%d" % port
        while True:
            try:
                self.call("/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    sys.exit("the engine ended: " + " ".join(args))
                time.sleep(0.005)
        self.ready = time.monotonic() - self.started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def write(self, prompt, temperature, seed, cache=False):
        return self.call("/completion", {"prompt": prompt, "n_predict": 64, "temperature": temperature, "seed": seed, "cache_prompt": cache})

    def rss(self):
        with open("/proc/%d/status" % self.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def held_out_pairs(n):
    """n (topic, syllables, minute) that are not in the training corpus; the same ones every time."""
    pairs = [(name, syl, m) for name, syl, _ in corpus.KNOWN for m in range(60) if corpus.held_out(name, m)]
    random.Random(20).shuffle(pairs)
    return pairs[:n]


def percent(n, total):
    return "%5.1f %%" % (100 * n / total)


def minutes(engine, n):
    """The first two rows of the card's table."""
    pairs = held_out_pairs(n)
    for temperature in (0, 0.8):
        words = once = lines = eos = syllables = 0
        tokens, ms, lengths = 0, 0.0, []
        for i, (topic, syl, minute) in enumerate(pairs):
            text, count = corpus.number_words(minute)
            a = engine.write(corpus.canonical(topic, text), temperature, 1000 + i)
            found = corpus.occurrences(a["content"], text)
            rows = a["content"].split("\n")
            words += found > 0
            once += found == 1
            lines += len(rows) == 3
            eos += a["stop_type"] == "eos"
            given = [(topic, syl), (text, count)]
            syllables += [corpus.count_line(r, given) for r in rows] == [5, 7, 5]
            tokens += a["tokens_predicted"]
            ms += a["timings"]["predicted_ms"]
            lengths.append(a["tokens_predicted"])
        lengths.sort()
        say("T=%s: words, once, lines, EOS, 5-7-5" % temperature, *(percent(x, len(pairs)) for x in (words, once, lines, eos, syllables)))
        say("T=%s: tokens an answer (5th to 95th of 100)" % temperature, "%d to %d" % (lengths[len(lengths) // 20], lengths[-len(lengths) // 20]))
        say("T=%s: tokens/s with %d thread(s)" % (temperature, engine.threads), round(1000 * tokens / ms))
        if words != len(pairs):
            failed.append("the minute is missing from %d of %d answers" % (len(pairs) - words, len(pairs)))


def answers(engine, n, **more):
    return [engine.write(corpus.canonical(t, corpus.number_words(m)[0]), 0.8, i, **more)["content"] for i, (t, _, m) in enumerate(held_out_pairs(n))]


def seeds(engine):
    first, again = answers(engine, 40), answers(engine, 40)
    other = [engine.write(corpus.canonical(t, corpus.number_words(m)[0]), 0.8, 5000 + i)["content"] for i, (t, _, m) in enumerate(held_out_pairs(40))]
    same = sum(a == b for a, b in zip(first, again))
    say("same seed, same bytes", "%d of 40" % same)
    say("another seed, another haiku", "%d of 40" % sum(a != b for a, b in zip(first, other)))
    say("different haiku of 50 seeds for one prompt", len({engine.write(corpus.canonical("rain", "seven"), 0.8, s)["content"] for s in range(50)}))
    if same != 40:
        failed.append("the same seed gave other bytes")


def check_engine(kind, command, n):
    print("\n== %s" % kind)
    with Engine(kind, command, 1) as one:
        say("ready after", "%.2f s" % one.ready)
        say("resident memory at start", "%.0f MiB" % one.rss())
        minutes(one, n)
        seeds(one)
        base = answers(one, 60)
        cached = answers(one, 60, cache=True)
        say("resident memory after", "%.0f MiB" % one.rss())
    with Engine(kind, command, 2) as two:
        threads = answers(two, 60)
        rate = [two.write(corpus.canonical(t, corpus.number_words(m)[0]), 0.8, i)["timings"] for i, (t, _, m) in enumerate(held_out_pairs(100))]
        say("tokens/s with 2 threads", round(1000 * sum(r["predicted_n"] for r in rate) / sum(r["predicted_ms"] for r in rate)))
    say("same with 2 threads as with 1", "%d of 60" % sum(a == b for a, b in zip(base, threads)))
    say("same with cache_prompt on as off", "%d of 60" % sum(a == b for a, b in zip(base, cached)))
    if kind == "worker":
        return
    with Engine(kind, command, 1, slots=4) as four, concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(four.write, corpus.canonical(t, corpus.number_words(m)[0]), 0.8, i) for i, (t, _, m) in enumerate(held_out_pairs(60))]
        busy = [j.result()["content"] for j in jobs]
    say("same with 4 busy slots as with one", "%d of 60" % sum(a == b for a, b in zip(base, busy)))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--llama-server", metavar="PATH")
    ap.add_argument("--worker", metavar="COMMAND")
    ap.add_argument("--n", type=int, default=600, help="held-out prompts for each temperature")
    args = ap.parse_args()
    check_file()
    if args.llama_server:
        check_engine("llama-server", args.llama_server, args.n)
    if args.worker:
        check_engine("worker", args.worker, args.n)
    if failed:
        sys.exit("\nNOT TRUE HERE:\n  " + "\n  ".join(failed))
    print("\nall that is checked exactly is true")


if __name__ == "__main__":
    main()
