"""What an application sees of a simulated server through OpenAI's client.

    client.py URL-OF-A-FREE-SERVER URL-OF-A-FULL-SERVER
"""

import sys
import unittest

import openai

FREE, FULL = sys.argv.pop(1), sys.argv.pop(1)
HELLO = [{"role": "user", "content": "Hello"}]


def client(url: str = FREE) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)


class ModelsTest(unittest.TestCase):
    def test_models_are_listed_with_their_parents(self) -> None:
        models = [(model.id, model.parent) for model in client().models.list()]
        self.assertEqual(models, [("tiny", None), ("a", "tiny"), ("b", "tiny")])


class CompletionsTest(unittest.TestCase):
    def test_a_whole_answer_has_text_and_usage(self) -> None:
        answer = client().completions.create(model="tiny", prompt="Hello world", max_tokens=4, n=2)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        self.assertTrue(all(choice.text for choice in answer.choices))
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertIsNone(answer.choices[0].logprobs)
        usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
        self.assertEqual(usage, (3, 8, 11))

    def test_a_stream_says_the_same_as_a_whole_answer(self) -> None:
        ask = {"model": "a", "prompt": "Hello", "max_tokens": 8}
        whole = client().completions.create(**ask)
        chunks = list(client().completions.create(**ask, stream=True))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), whole.choices[0].text)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "length")
        self.assertEqual({chunk.model for chunk in chunks}, {"a"})

    def test_a_stop_text_ends_it(self) -> None:
        ask = {"model": "tiny", "prompt": "Hello", "max_tokens": 8}
        said = client().completions.create(**ask).choices[0].text
        stop = said.split()[3]
        stopped = client().completions.create(**ask, stop=stop).choices[0]
        self.assertEqual((stopped.text, stopped.finish_reason), (said[: said.index(stop)], "stop"))


class ChatTest(unittest.TestCase):
    def test_a_whole_answer_is_a_message(self) -> None:
        answer = client().chat.completions.create(model="b", messages=HELLO, max_completion_tokens=3)
        self.assertEqual(answer.model, "b")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertEqual(answer.usage.completion_tokens, 3)

    def test_an_answer_without_a_limit_ends_by_itself(self) -> None:
        answer = client().chat.completions.create(model="tiny", messages=HELLO)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_a_stream_begins_with_the_role_and_ends_with_usage(self) -> None:
        options = {"include_usage": True}
        stream = client().chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=3, stream=True, stream_options=options
        )
        *chunks, last = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(sum(bool(chunk.choices[0].delta.content) for chunk in chunks), 3)
        self.assertEqual((last.choices, last.usage.completion_tokens), ([], 3))


class ResponsesTest(unittest.TestCase):
    def test_a_whole_response_has_text_and_usage(self) -> None:
        response = client().responses.create(model="tiny", input="Hello", max_output_tokens=4)
        self.assertTrue(response.output_text)
        self.assertEqual((response.status, response.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertEqual(response.usage.output_tokens, 4)

    def test_a_stream_of_events_gives_the_same_text(self) -> None:
        ask = {"model": "tiny", "input": "Hello", "max_output_tokens": 6}
        events = list(client().responses.create(**ask, stream=True))
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        self.assertEqual(said, client().responses.create(**ask).output_text)
        self.assertEqual(events[-1].response.output_text, said)


class ErrorsTest(unittest.TestCase):
    def test_an_unknown_model_is_not_found(self) -> None:
        with self.assertRaises(openai.NotFoundError) as caught:
            client().completions.create(model="nope", prompt="Hello")
        self.assertEqual((caught.exception.param, caught.exception.type), ("model", "NotFoundError"))

    def test_what_does_not_fit_is_a_bad_request(self) -> None:
        with self.assertRaises(openai.BadRequestError) as caught:
            client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=5000)
        self.assertEqual(caught.exception.param, "max_tokens")

    def test_a_full_server_is_a_server_error(self) -> None:
        with self.assertRaises(openai.InternalServerError) as caught:
            client(FULL).completions.create(model="tiny", prompt="Hello")
        self.assertEqual(caught.exception.status_code, 503)

    def test_a_stream_that_cannot_be_served_raises(self) -> None:
        with self.assertRaises(openai.APIError):
            list(client(FULL).completions.create(model="tiny", prompt="Hello", stream=True))


if __name__ == "__main__":
    unittest.main()
