//! CRC-32 of what ends in zeros, without going over them.
//!
//! To its register a byte of zeros is a linear map over GF(2); so are thousands of them (as in zlib's
//! `crc32_combine`).

/// The reflected polynomial of CRC-32.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A linear map of 32 bits: what each bit becomes.
type Map = [u32; 32];

/// What so many bytes of zeros do to the CRC of what comes before them.
pub(super) struct Zeros(Map);

impl Zeros {
    pub(super) const fn of(bytes: usize) -> Self {
        let mut step = one_bit();
        let mut all = identity();
        let mut bits = bytes * 8;
        while bits > 0 {
            if bits & 1 == 1 {
                all = after(&step, &all);
            }
            step = after(&step, &step);
            bits >>= 1;
        }
        Self(all)
    }

    /// The CRC of the bytes whose CRC is `crc`, and the zeros.
    pub(super) fn append_to(&self, crc: u32) -> u32 {
        !apply(&self.0, !crc)
    }
}

const fn identity() -> Map {
    let mut map = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        map[bit] = 1 << bit;
        bit += 1;
    }
    map
}

/// What a zero bit does.
const fn one_bit() -> Map {
    let mut map = [0; 32];
    map[0] = POLYNOMIAL;
    let mut bit = 1;
    while bit < 32 {
        map[bit] = 1 << (bit - 1);
        bit += 1;
    }
    map
}

const fn apply(map: &Map, register: u32) -> u32 {
    let mut result = 0;
    let mut bit = 0;
    while bit < 32 {
        // All ones where the bit is set: no branch to mispredict.
        result ^= map[bit] & (register >> bit & 1).wrapping_neg();
        bit += 1;
    }
    result
}

const fn after(second: &Map, first: &Map) -> Map {
    let mut map = [0; 32];
    let mut bit = 0;
    while bit < 32 {
        map[bit] = apply(second, first[bit]);
        bit += 1;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_count_as_if_they_had_been_gone_over() {
        let mut bytes = vec![0; 5000];
        bytes[..7].copy_from_slice(b"content");
        for (used, zeros) in [(7, 0), (7, 1), (7, 3580), (100, 255), (1024, 3068)] {
            let short = crc32fast::hash(&bytes[..used]);
            let long = crc32fast::hash(&bytes[..used + zeros]);
            assert_eq!(Zeros::of(zeros).append_to(short), long, "{used} and {zeros}");
        }
    }
}
