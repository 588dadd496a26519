//! The tokens of models that do not exist: four bytes of text each, sixteen words to answer with, and a chat template.
//!
//! Equal text gives equal tokens, a longer text begins with the tokens of its first whole fours, and decoding gives the text
//! back. Real vocabularies have other ids and lengths; nothing that routes requests depends on them.

use crate::workload::BYTES_PER_TOKEN;

/// One token's id.
pub(super) type Token = u32;

/// What a model says; two bytes to nine. Their ids are their places.
const WORDS: [&str; 16] = [
    " the", " train", " takes", " a", " track", " to", " its", " place", " and", " waits", " for",
    " no", " signal", " but", " one", " points",
];

/// What the chat template adds; their ids follow those of the words.
const MARKS: [&str; 7] = [
    "<|im_start|>",
    "<|im_end|>",
    "\n",
    "user",
    "assistant",
    "system",
    "tool",
];
const START: Token = 16;
const END: Token = 17;
const LINE: Token = 18;
const USER: Token = 19;

/// The id of the first token of text; those below are words and marks.
const TEXT: Token = 32;
/// UTF-8 has no byte above 0xf4, so that a byte is a digit from 1 to 245, and four of them fit in 32 bits.
const BASE: Token = 246;

/// The `place`th token, from 1, of what a model says on the `seed` of a prompt.
pub(super) const fn said(seed: u64, place: u32) -> Token {
    let mixed = seed.wrapping_add((place as u64).wrapping_mul(0x9e37_79b9));
    ((mixed >> 3) % WORDS.len() as u64) as Token
}

/// The text of a word.
pub(super) fn word(token: Token) -> &'static str {
    WORDS.get(token as usize).copied().unwrap_or_default()
}

/// Appends the tokens of a text.
pub(super) fn encode(text: &str, tokens: &mut Vec<Token>) {
    let chunks = text.as_bytes().chunks(BYTES_PER_TOKEN as usize);
    tokens.extend(chunks.map(|chunk| {
        let digits = chunk.iter().rev().fold(0, |number, &byte| {
            number * BASE + Token::from(byte.min(0xf4)) + 1
        });
        TEXT + digits
    }));
}

/// Appends what a chat template writes before the text of a message: a start, a role and a line.
pub(super) fn encode_role(role: &str, tokens: &mut Vec<Token>) {
    let known = MARKS.iter().skip(3).position(|&mark| mark == role);
    let role = known.map_or(USER, |place| USER + place as Token);
    tokens.extend([START, role, LINE]);
}

/// Appends what a chat template writes behind the text of a message.
pub(super) fn encode_end(tokens: &mut Vec<Token>) {
    tokens.extend([END, LINE]);
}

/// The tokens of a text that a model said; none if it is not one that a model says.
pub(super) fn encode_said(text: &str) -> Option<Vec<Token>> {
    let said = text.strip_prefix(' ')?;
    let place = |word: &str| WORDS.iter().position(|known| &known[1..] == word);
    said.split(' ')
        .map(|word| place(word).map(|place| place as Token))
        .collect()
}

/// The text of tokens.
pub(super) fn decode(tokens: impl IntoIterator<Item = u64>) -> String {
    let mut bytes = Vec::new();
    for token in tokens {
        push_bytes(token, &mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A token as a byte-level vocabulary lists it: a blank is written as Ġ and the end of a line as Ċ.
pub(super) fn listed(token: Token) -> String {
    decode([u64::from(token)])
        .replace(' ', "Ġ")
        .replace('\n', "Ċ")
}

fn push_bytes(token: u64, bytes: &mut Vec<u8>) {
    let words = WORDS.len() as u64;
    if let Some(word) = WORDS.get(token as usize) {
        bytes.extend_from_slice(word.as_bytes());
    } else if let Some(mark) = MARKS.get((token - words) as usize) {
        bytes.extend_from_slice(mark.as_bytes());
    }
    let mut digits = token.saturating_sub(u64::from(TEXT)) % u64::from(BASE).pow(BYTES_PER_TOKEN);
    while digits > 0 {
        let digit = digits % u64::from(BASE);
        bytes.push(u8::try_from(digit.saturating_sub(1)).unwrap_or_default());
        digits /= u64::from(BASE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        encode(text, &mut tokens);
        tokens
    }

    #[test]
    fn decoding_gives_the_text_back() {
        for text in [
            "",
            "a",
            "abcd",
            "Hello world",
            "Gleis\0fünf\n",
            "信号所",
            "\u{10ffff}🚂",
        ] {
            let tokens = encoded(text);
            assert_eq!(tokens.len(), text.len().div_ceil(4));
            assert_eq!(decode(tokens.into_iter().map(u64::from)), text);
        }
    }

    #[test]
    fn a_longer_text_begins_with_the_tokens_of_a_shorter() {
        let (short, long) = (encoded("the train"), encoded("the train waits"));
        assert_eq!(short[..2], long[..2]);
    }

    #[test]
    fn what_is_said_and_ids_of_nothing_decode_too() {
        assert_eq!(decode([0, 1]), " the train");
        assert_eq!(encode_said(" the train"), Some(vec![0, 1]));
        assert_eq!(encode_said(" the trai"), None);
        decode([23, 31, 32, 797, u64::from(u32::MAX), u64::MAX]);
    }

    #[test]
    fn a_chat_is_listed_with_its_template() {
        let mut tokens = Vec::new();
        encode_role("user", &mut tokens);
        encode("a b\n", &mut tokens);
        encode_end(&mut tokens);
        encode_role("assistant", &mut tokens);
        let listed: Vec<_> = tokens.into_iter().map(listed).collect();
        let expected = [
            "<|im_start|>",
            "user",
            "Ċ",
            "aĠbĊ",
            "<|im_end|>",
            "Ċ",
            "<|im_start|>",
            "assistant",
            "Ċ",
        ];
        assert_eq!(listed, expected);
    }
}
