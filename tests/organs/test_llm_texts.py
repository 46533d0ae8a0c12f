"""Asked of a small server on this machine that answers as it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from autoseg.errors import UsageError
from autoseg.organs.llm_texts import Server, ask_description

FIELDS = {
    "what": "The thymus is a gland of the immune system.",
    "where": "The thymus lies behind the breastbone",
    "shape": "The thymus has two lobes about 40 mm long.",
    "ct": "On CT the thymus is 40 HU in the young.",
    "mri": "On MRI the thymus is grey on T1.",
    "confused_with": "The thymus is taken for a lymph node.",
}


class StandIn:
    """What the server answers, and what it was asked."""

    def __init__(self):
        self.status, self.answer, self.asked = 200, "", []

    def say(self, content):
        self.answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.fixture
def stand_in():
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, self.headers.get("Authorization"), body))
            self.send_response(state.status)
            self.end_headers()
            self.wfile.write(state.answer.encode())

        def log_message(self, *_args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    server.shutdown()
    server.server_close()


def ask(stand_in, **changes):
    return ask_description("thymus", modality="ct", server=Server(stand_in.url, "small", **changes))


@pytest.mark.parametrize("wrapping", ["{}", "```json\n{}\n```", "```\n{}\n```", "  {}  "])
def test_the_answers_fields_become_sentences_in_order(stand_in, wrapping):
    stand_in.say(wrapping.replace("{}", json.dumps(FIELDS)))
    text = ask(stand_in)
    assert text.startswith(FIELDS["what"] + " The thymus lies behind the breastbone. The thymus has two lobes")
    assert text.endswith(FIELDS["confused_with"])


def test_nothing_but_name_and_kind_of_image_is_sent(stand_in):
    stand_in.say(json.dumps(FIELDS))
    ask(stand_in, key="secret")
    [(path, authorization, body)] = stand_in.asked
    assert path == "/v1/chat/completions" and authorization == "Bearer secret"
    assert set(body) == {"model", "messages", "temperature"} and body["model"] == "small"
    assert "CT scans" in body["messages"][0]["content"] and body["messages"][1]["content"] == "thymus"
    ask(stand_in)
    assert stand_in.asked[1][1] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("I cannot help with that.", "not the JSON"),
        (json.dumps([1, 2]), "'what'"),
        (json.dumps({**FIELDS, "shape": ""}), "'shape'"),
        (json.dumps({**FIELDS, "mri": "x" * 500}), "'mri'"),
        (json.dumps({**FIELDS, "ct": 7}), "'ct'"),
        (json.dumps({**FIELDS, "ct": "On CT \x1b[31m it is red and blinks."}), "'ct'"),
        (json.dumps({key: text for key, text in FIELDS.items() if key != "where"}), "'where'"),
        (None, "not the JSON"),
    ],
)
def test_an_answer_that_is_no_description_is_refused(stand_in, content, message):
    stand_in.say(content)
    with pytest.raises(UsageError, match=message):
        ask(stand_in)


@pytest.mark.parametrize(("status", "answer"), [(404, "no"), (500, "")])
def test_a_server_that_refuses_is_named_with_its_answer(stand_in, status, answer):
    stand_in.status, stand_in.answer = status, answer
    with pytest.raises(UsageError, match=f"answers {status}"):
        ask(stand_in)


@pytest.mark.parametrize("answer", ["", "<html>", "{}", '{"choices": []}'])
def test_what_is_no_such_server_is_refused(stand_in, answer):
    stand_in.answer = answer
    with pytest.raises(UsageError, match="not the JSON"):
        ask(stand_in)


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://127.0.0.1:9/v1", "cannot be reached"), ("file:///etc", "http://"), ("localhost:8000", "http://")],
)
def test_an_address_without_a_server_is_named(url, message):
    with pytest.raises(UsageError, match=message):
        ask_description("thymus", modality="mri", server=Server(url, "small"))
