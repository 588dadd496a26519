//! Rust text as a flat list of tokens: comments are gone, and spaces do not matter.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, one mark of punctuation or one half of a pair of brackets; empty for a literal.
    pub(crate) text: String,
    /// From 1.
    pub(crate) line: usize,
}

/// The tokens of a Rust file.
///
/// # Panics
///
/// When the text is not Rust: the compiler would have said so first.
pub(crate) fn of_source(path: &str, text: &str) -> Vec<Token> {
    let stream: TokenStream = text
        .parse()
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    tokens
}

/// The tokens of a banned sequence, which may have open brackets.
pub(crate) fn of_pattern(pattern: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for character in pattern.chars() {
        let is_word = character.is_alphanumeric() || character == '_';
        match tokens.last_mut() {
            Some(word) if is_word && in_word => word.push(character),
            _ if character.is_whitespace() => {}
            _ => tokens.push(character.to_string()),
        }
        in_word = is_word;
    }
    tokens
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Ident(ident) => tokens.push(Token {
                text: ident.to_string(),
                line,
            }),
            TokenTree::Punct(mark) => tokens.push(Token {
                text: mark.as_char().to_string(),
                line,
            }),
            TokenTree::Literal(_) => tokens.push(Token {
                text: String::new(),
                line,
            }),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let last = group.span_close().start().line;
                tokens.push(Token {
                    text: open.to_owned(),
                    line,
                });
                flatten(group.stream(), tokens);
                tokens.push(Token {
                    text: close.to_owned(),
                    line: last,
                });
            }
        }
    }
}
