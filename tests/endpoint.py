"""An endpoint with OpenAI's protocol on this machine, for tests of what asks one."""

import importlib.util
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint(ThreadingHTTPServer):
    """OpenAI's protocol on this machine; `reply` makes of a request's number and question an answer, or a status.

    A float among the replies is a pause in seconds.
    """

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.asked, self.keys, self.lock = reply, [], [], threading.Lock()
        self.now, self.most = 0, 0
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number = len(server.asked)
            server.asked.append(body)
            server.keys.append(self.headers["Authorization"])
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            self.send(server.reply(number, body["messages"][-1]["content"]), body)
        finally:
            with server.lock:
                server.now -= 1

    def send(self, reply, body):
        status, said = reply if isinstance(reply, tuple) else (200, reply)
        told = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{body['model']}-0125",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
        kind = "text/html" if said.startswith("<html>") else "application/json"
        error = json.dumps({"error": {"message": said}})
        content = (said if kind == "text/html" else json.dumps(told) if status == 200 else error).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except BrokenPipeError:  # who asked did not wait
            pass

    def log_message(self, *_):
        pass


@contextmanager
def endpoint(reply):
    with Endpoint(reply) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:  # a loop that is left on a closed socket never sleeps
            server.shutdown()


def hasten(monkeypatch):
    """No waiting between two tries, and none of the keys of whoever runs this."""
    monkeypatch.setattr("repro.stages.judge.answers.PAUSE", 0.0)
    if importlib.util.find_spec("openai"):
        monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
        monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "REPRO_CACHE"):
        monkeypatch.delenv(name, raising=False)


def summaries(asked):
    """The two summaries of a question, as they were shown."""
    first, second = asked.split("Summary A:\n")[1].split("\n\nInstructions:")[0].split("\n\nSummary B:\n")
    return first, second


def prefer_longer(_, asked):
    first, second = summaries(asked)
    return f"Comparison: one says more.\nPreferred: {'A' if len(first) >= len(second) else 'B'}"
