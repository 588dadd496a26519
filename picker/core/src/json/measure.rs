//! What is counted in an array or object that is passed over: its elements, numbers, and bytes of media.

/// How much of a string's beginning tells whether it is an image or a sound.
pub(super) const HEAD_BYTES: usize = 64;

/// What an image or a sound counts as text, at most: 256 tokens of four bytes, as many as an image of 640 x 360 gets
/// from models that give a token to 32 x 32 pixels. Its length in base64 says nothing of that.
const MEDIA_BYTES: u64 = 1024;

/// Counts in one array or object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Arrays and objects that are open.
    depth: u64,
    /// The last of them is an array in which nothing stands yet.
    fresh: bool,
    /// The last of them is an array that began with a number.
    numeric: bool,
    /// The last string was `data`: if it is a key, its value is base64.
    data: bool,
    /// The value that comes next is base64.
    base64: bool,
    /// Numbers in arrays of numbers.
    pub(crate) numbers: u64,
    /// Commas between the elements of the outermost, where those are no numbers.
    pub(crate) commas: u64,
    /// Bytes of images and sounds, beyond what each counts as text.
    pub(crate) media_bytes: u64,
}

impl Measure {
    /// An array or object begins with `bracket`.
    pub(super) fn of_value(bracket: u8) -> Self {
        Self {
            depth: 1,
            fresh: bracket == b'[',
            ..Self::default()
        }
    }

    /// A byte that is not part of a string; whether it ends the value.
    #[inline]
    pub(super) fn on_byte(&mut self, byte: u8) -> bool {
        match byte {
            b'[' | b'{' => {
                self.depth += 1;
                self.fresh = byte == b'[';
                self.numeric = false;
                self.base64 = false;
            }
            b']' | b'}' => {
                self.depth -= 1;
                self.fresh = false;
                self.numeric = false;
                return self.depth == 0;
            }
            b',' if self.numeric => self.numbers += 1,
            b',' if self.depth == 1 => self.commas += 1,
            b':' => self.base64 = self.data,
            b'0'..=b'9' | b'-' if self.fresh => {
                self.fresh = false;
                self.numeric = true;
                self.numbers += 1;
            }
            _ => {}
        }
        false
    }

    /// A string of so many bytes, which begins with `head`.
    #[inline]
    pub(super) fn on_string(&mut self, head: &[u8], bytes: u64) {
        self.fresh = false;
        self.numeric = false;
        self.data = bytes == 4 && head == b"data";
        let base64 = std::mem::take(&mut self.base64);
        if bytes > MEDIA_BYTES && (base64 || is_data_url(head)) {
            self.media_bytes += bytes - MEDIA_BYTES;
        }
    }

    /// Whether numbers may follow that need no look at each byte.
    pub(super) fn in_numbers(&self) -> bool {
        self.numeric
    }

    /// Passes over numbers and the commas between them, 32 bytes at a time, and says how many bytes that were.
    pub(super) fn take_numbers(&mut self, rest: &[u8]) -> usize {
        let mut taken = 0;
        let mut commas = 0;
        for chunk in rest.as_chunks::<32>().0 {
            // Sums without branches: the compiler turns them into vector instructions.
            let mut other = 0_u8;
            let mut here = 0_u8;
            for byte in chunk {
                // Bytes from ' ' to '9' but the quote: those of numbers and of what is between them.
                other |= u8::from(byte.wrapping_sub(b' ') > b'9' - b' ') | u8::from(*byte == b'"');
                here += u8::from(*byte == b',');
            }
            if other != 0 {
                break;
            }
            commas += u64::from(here);
            taken += chunk.len();
        }
        self.numbers += commas;
        taken
    }
}

/// Whether a string is a URL that holds what it names.
fn is_data_url(head: &[u8]) -> bool {
    head.starts_with(b"data:")
        && memchr::memmem::find(&head[..head.len().min(HEAD_BYTES)], b";base64,").is_some()
}
