//! Fan-out in pieces: no invocation does work proportional to the block.

use crate::record::MANIFEST_PAGE;

/// Widest split of a range in one step.
const FAN: u32 = 16;

/// A run of at most [`MANIFEST_PAGE`] segments: one page of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub number: u32,
    pub from: u32,
    pub to: u32,
}

/// What to do with a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeStep {
    /// Send the tasks of this piece, then mark it.
    Send(Piece),
    /// Hand these smaller ranges on.
    Divide(Vec<(u32, u32)>),
}

/// The piece that holds a segment.
pub fn piece_of(segment: u32, segments: u32) -> Piece {
    let number = segment / MANIFEST_PAGE;
    let from = number * MANIFEST_PAGE;
    Piece { number, from, to: segments.min(from + MANIFEST_PAGE) }
}

/// How many pieces a block has.
pub fn pieces(segments: u32) -> u32 {
    segments.div_ceil(MANIFEST_PAGE)
}

/// `None`: the range is not one of a block with so many segments.
pub fn range_step(from: u32, to: u32, segments: u32) -> Option<RangeStep> {
    let aligned = from.is_multiple_of(MANIFEST_PAGE) && (to.is_multiple_of(MANIFEST_PAGE) || to == segments);
    if !aligned || from >= to || to > segments {
        return None;
    }
    let pieces = (to - from).div_ceil(MANIFEST_PAGE);
    if pieces == 1 {
        return Some(RangeStep::Send(piece_of(from, segments)));
    }
    let share = pieces.div_ceil(FAN) * MANIFEST_PAGE;
    let starts = (from..to).step_by(share as usize);
    Some(RangeStep::Divide(starts.map(|start| (start, to.min(start + share))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces a range comes down to, and the longest chain of messages it takes.
    fn expand(from: u32, to: u32, segments: u32) -> (Vec<Piece>, u32) {
        match range_step(from, to, segments).unwrap() {
            RangeStep::Send(piece) => (vec![piece], 1),
            RangeStep::Divide(parts) => {
                assert!(parts.len() <= FAN as usize);
                let parts: Vec<_> = parts.into_iter().map(|(from, to)| expand(from, to, segments)).collect();
                let depth = parts.iter().map(|(_, depth)| depth + 1).max().unwrap();
                (parts.into_iter().flat_map(|(pieces, _)| pieces).collect(), depth)
            }
        }
    }

    #[test]
    fn a_range_comes_down_to_every_piece_once() {
        for segments in [1, 255, 256, 257, 4096, 5000, 100_000] {
            let (found, depth) = expand(0, segments, segments);
            assert_eq!(found.len() as u32, pieces(segments));
            assert!(depth <= 4);
            let mut next = 0;
            for (number, piece) in found.into_iter().enumerate() {
                assert_eq!((piece.number as usize, piece.from), (number, next));
                next = piece.to;
            }
            assert_eq!(next, segments);
        }
    }

    #[test]
    fn a_range_that_is_not_of_this_block_is_refused() {
        for (from, to) in [(0, 0), (1, 256), (0, 100), (0, 512), (256, 200)] {
            assert_eq!(range_step(from, to, 300), None, "{from}..{to}");
        }
    }
}
