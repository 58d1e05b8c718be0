//! Small accidents that befall an input: bits flip, bytes vanish, come twice, or come from elsewhere.

/// No input grows beyond this.
const INPUT_BYTES_MAX: usize = 4096;
const ACCIDENTS_MAX: usize = 4;

/// What parsers of text trip over.
const TOKENS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\x7f",
    b"\xff",
    b"%",
    b"%2F",
    b"%00",
    b",",
    b";",
    b":",
    b"=",
    b"-",
    b"/",
    b"\"",
    b"*",
    b"0",
    b"18446744073709551615",
    b"{}",
    b"null",
];

/// Makes inputs of seeds; the same name and seeds always make the same.
pub struct Mutator<'s> {
    seeds: &'s [&'s [u8]],
    state: u64,
    input: Vec<u8>,
}

impl<'s> Mutator<'s> {
    /// `seeds` has one at least.
    pub fn new(name: &str, seeds: &'s [&'s [u8]]) -> Mutator<'s> {
        assert!(!seeds.is_empty(), "{name} has no seeds");
        // FNV-1a; never zero, which xorshift would not leave.
        let state = name.bytes().fold(0xcbf2_9ce4_8422_2325, |state: u64, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Mutator { seeds, state: state | 1, input: Vec::new() }
    }

    /// A seed to which one accident or a few have happened.
    pub fn next(&mut self) -> &[u8] {
        let seed = self.seed();
        self.input.clear();
        self.input.extend_from_slice(&seed[..seed.len().min(INPUT_BYTES_MAX)]);
        for _ in 0..=self.below(ACCIDENTS_MAX) {
            self.accident();
        }
        self.input.truncate(INPUT_BYTES_MAX);
        &self.input
    }

    fn accident(&mut self) {
        let (from, to) = self.piece_of(self.input.len());
        let (byte, token) = (self.below(256) as u8, TOKENS[self.below(TOKENS.len())]);
        match self.below(8) {
            0 if from < self.input.len() => self.input[from] ^= 1 << (byte % 8),
            1 if from < self.input.len() => self.input[from] = byte,
            2 => self.input.insert(from, byte),
            3 => drop(self.input.drain(from..to)),
            4 => {
                let twice = self.input[from..to].to_vec();
                self.input.splice(to..to, twice);
            }
            5 => drop(self.input.splice(from..from, token.iter().copied())),
            6 => drop(self.input.splice(from..to, token.iter().copied())),
            _ => {
                let other = self.seed();
                let (first, last) = self.piece_of(other.len());
                self.input.splice(from..to, other[first..last].iter().copied());
            }
        }
    }

    fn seed(&mut self) -> &'s [u8] {
        self.seeds[self.below(self.seeds.len())]
    }

    /// `from <= to <= len`; short pieces more often than long ones.
    fn piece_of(&mut self, len: usize) -> (usize, usize) {
        let from = self.below(len + 1);
        let reach = self.below(len - from + 1);
        (from, from + self.below(reach + 1))
    }

    /// `0 <= result < bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % bound
    }
}
