

class LlamaOrchError(Exception):
    """What the methods of a Client raise."""


class APIError(LlamaOrchError):
    """The server refused, or the task ended without an answer. retry_after is in seconds; None: the server names no time."""

    def __init__(self, status: int, envelope: Error, retry_after: Optional[float] = None, correlation_id: str = "") -> None:
        super().__init__(f"{envelope['code']}: {envelope['message']}")
        self.status = status  # of HTTP; 0 for a stream's last event
        self.envelope = envelope
        self.code: ErrorCode = envelope["code"]
        self.message = envelope["message"]
        self.retriable = envelope["retriable"]
        self.retry_after = envelope["retry_after_ms"] / 1000 if "retry_after_ms" in envelope else retry_after
        self.correlation_id = correlation_id  # finds the request in the server's log


class UnreachableError(LlamaOrchError):
    """The server gave no answer, or its connection broke and could not be made again."""


class ProtocolError(LlamaOrchError):
    """Something answered, but not with this API: another program, a proxy, or a server of another version."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class VerifyError(LlamaOrchError):
    """A stream's events are not what their ids say. Do not trust what was read of it; read it again from the start."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The API redirects nobody, and a token goes to its own server alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


class _Log:
    """Where in a task's log a reader is. Reading from event 0 on, it holds each id to the hash of all events so far."""

    def __init__(self, after: str) -> None:
        self.last = after
        self.next = int(after.partition("-")[0]) + 1 if after else 0
        self.hash = None if after else hashlib.sha256()

    def take(self, event_id: str, name: str, data: str) -> None:
        number, _, tag = event_id.partition("-")
        if number != str(self.next):
            raise VerifyError(f"event {event_id} came where number {self.next} was next")
        if self.hash is not None:
            self.hash.update(f"{name}\n{data}\n".encode())
            if tag != self.hash.hexdigest()[:8]:
                raise VerifyError(f"the events up to {event_id} have the hash {self.hash.hexdigest()[:8]}")
        self.last, self.next = event_id, self.next + 1


class _Connection:
    """How a Client reaches its server: one request a connection, on the standard library alone."""

    #: The longest line of a stream, and the longest answer, in bytes.
    _most = 64 << 20
    #: The id of an error that ends this stream alone, and is no event of the task's log, begins so.
    _aside = "999999999999999999-"

    def __init__(
        self,
        addr: str = "",
        token: str = "",
        *,
        timeout: float = 60.0,
        patience: Optional[float] = 600.0,
        reconnects: int = 8,
        delay: float = 0.25,
    ) -> None:
        """addr and token are by default those of LLORCH_ADDR and LLORCH_API_TOKEN.

        timeout is how many seconds the server may be silent. patience is the same for calls that change something: loading a
        model takes long. reconnects bounds the attempts to get a broken stream back, counted from its last event; delay is
        the wait before the first of them, and doubles each time.
        """
        addr = addr or os.environ.get("LLORCH_ADDR") or "http://127.0.0.1:8080"
        self._addr = addr.rstrip("/")
        self._token = token or os.environ.get("LLORCH_API_TOKEN") or ""
        self._timeout, self._patience, self._reconnects, self._delay = timeout, patience, reconnects, delay
        host = urllib.parse.urlsplit(addr).hostname or ""
        loopback = host in ("localhost", "::1") or host.startswith("127.")
        self._opener = urllib.request.build_opener(_NoRedirects(), urllib.request.ProxyHandler({} if loopback else None))
        self._streams: set[Any] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the streams that are still open. Their tasks run on."""
        self._closed = True
        for response in list(self._streams):
            response.close()

    def _open(self, method: str, path: str, query: Mapping[str, object], body: object = None, headers: Mapping[str, str] = {}) -> Any:
        if self._closed:
            raise LlamaOrchError("this client is closed: make another one")
        given = {name: value for name, value in query.items() if value is not None}
        request = urllib.request.Request(self._addr + path + ("?" + urllib.parse.urlencode(given) if given else ""), method=method)
        for name, value in headers.items():
            request.add_header(name, value)
        if self._token:
            request.add_header("Authorization", "Bearer " + self._token)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            return self._opener.open(request, timeout=self._timeout if method == "GET" else self._patience)
        except urllib.error.HTTPError as refusal:
            raise _refused(refusal) from None
        except (OSError, http.client.HTTPException) as lost:
            raise UnreachableError(f"no answer from {self._addr}: {lost}") from lost

    def _read(self, method: str, path: str, query: Mapping[str, object], body: object = None) -> bytes:
        with self._open(method, path, query, body) as response:
            try:
                content: bytes = response.read(self._most + 1)
            except (OSError, http.client.HTTPException) as lost:
                raise UnreachableError(f"the answer of {self._addr} broke off: {lost}") from lost
        if len(content) > self._most:
            raise ProtocolError("the answer is larger than this client reads")
        return content

    def _json(self, method: str, path: str, query: Mapping[str, object], body: object = None) -> Any:
        try:
            return json.loads(self._read(method, path, query, body))
        except ValueError as strange:
            raise ProtocolError(f"the answer is not JSON: {strange}") from strange

    def _follow(self, path: str, after: str) -> Iterator[tuple[str, str, Any]]:
        """The events of a task, in order and each once, over connections that break."""
        log, tries, connected = _Log(after), 0, False
        while True:
            at = log.next
            try:
                response = self._open("GET", path, {}, headers={"Accept": "text/event-stream", **({"Last-Event-ID": log.last} if log.last else {})})
                self._streams.add(response)
                connected = True
                try:
                    if response.status == 204:
                        return  # nothing follows the event that the caller holds
                    for event_id, name, data in _frames(response, self._most):
                        if event_id and not event_id.startswith(self._aside):
                            log.take(event_id, name, data)
                        yield event_id, name, json.loads(data)
                        if name in ("end", "error"):
                            return
                finally:
                    self._streams.discard(response)
                    response.close()
                raise UnreachableError(f"the stream broke off after event {log.last or 'none'}")
            except (UnreachableError, APIError, OSError, http.client.HTTPException) as broken:
                passing = not isinstance(broken, APIError) or broken.retriable and broken.status in (429, 503)
                wait = (isinstance(broken, APIError) and broken.retry_after) or 0
                tries = 0 if log.next != at else tries + 1
                if not connected or not passing or wait > 60 or tries > self._reconnects:
                    if isinstance(broken, LlamaOrchError):
                        raise
                    raise UnreachableError(f"the stream broke off: {broken}") from broken
                time.sleep(max(wait, min(self._delay * 2**tries, 30 * self._delay) * random.uniform(0.5, 1.5)))
            except ValueError as strange:
                raise ProtocolError(f"an event is not JSON: {strange}") from strange


def _frames(response: Any, most: int) -> Iterator[tuple[str, str, str]]:
    event_id, name, data, size = "", "", [], 0
    while line := response.readline(most + 1):
        size += len(line)
        if size > most:
            raise ProtocolError("an event is larger than this client reads")
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if line in (b"\n", b"\r\n"):
            if data:
                yield event_id, name, "\n".join(data)
            event_id, name, data, size = "", "", [], 0
        elif field == "id":
            event_id = value
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _refused(refusal: urllib.error.HTTPError) -> LlamaOrchError:
    with refusal:
        try:
            envelope: Error = json.loads(refusal.read(1 << 20))
            seconds = refusal.headers.get("Retry-After", "")
            return APIError(
                refusal.code, envelope, float(seconds) if seconds.isdigit() else None, refusal.headers.get("X-Correlation-Id", "")
            )
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            return ProtocolError(f"the answer has the HTTP status {refusal.code}, and is not of this API", refusal.code)


def _at(part: str) -> str:
    return urllib.parse.quote(part, safe="")


class Client(_Connection):
    """A client of one server. Requests and answers are dictionaries, as the API has them; a type checker knows their fields.

        with Client() as llama:
            for event in llama.run({"model_ref": MODELS[0], "prompt": "Why is the sky blue?"}):
                if event.name == "token":
                    print(event.data["t"], end="", flush=True)
                elif event.name == "end":
                    print(event.data["receipt"]["transcript_sha256"])
    """

    def run(self, request: TaskRequest) -> Generator[Event, None, None]:
        """Submits a task and reads its stream. A loop that is left before the end, or Ctrl-C, cancels the task."""
        task = self.create_task(request)["task_id"]
        try:
            yield from self.stream_task(task)
        except (GeneratorExit, KeyboardInterrupt):
            if not self._closed:
                self.cancel_task(task)
            raise

    def stream_task(self, id: str, after: str = "") -> Generator[Event, None, None]:
        """A task's events, live or again, behind the one with the id after. A connection that breaks is made again.

        The last one has the receipt. A task that ends without an answer raises its APIError, also one that is canceled (CANCELED).
        """
        for event_id, name, data in self._follow(f"/v1/tasks/{_at(id)}/stream", after):
            if name == "error":
                raise APIError(0, data)
            if name in _EVENTS:
                yield _EVENTS[name](event_id, data)
