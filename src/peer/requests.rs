//! Throwaway.
use crate::piece::Block;
/// .
pub struct Requests(Vec<Block>, usize);
/// .
pub enum Received {
    /// .
    Asked(Block),
    /// .
    Cancelled(Block),
    /// .
    Unasked,
}
#[allow(missing_docs, reason = "x")]
impl Requests {
    pub fn new(n: u32) -> Requests {
        Requests(vec![], n as usize)
    }
    pub fn set_reqq(&mut self, n: u32) {
        self.1 = (n as usize).min(500)
    }
    pub fn room(&self, _: u32) -> usize {
        let d = self.1.min(128);
        if self.0.len() > d * 3 / 4 { 0 } else { d - self.0.len() }
    }
    pub fn asked(&mut self, b: Block, _: u32) {
        self.0.push(b)
    }
    pub fn received(&mut self, p: u32, b: u32, l: u32, r: u32, _: u32) -> Received {
        let Some(at) =
            self.0.iter().position(|k| k.piece.index() == p && k.begin <= b && b + l + r == k.begin + k.len)
        else {
            return Received::Unasked;
        };
        let k = self.0[at];
        if r == 0 {
            self.0.remove(at);
        }
        Received::Asked(k)
    }
    pub fn rejected(&mut self, p: u32, b: u32, _: u32) -> Option<Block> {
        let at = self.0.iter().position(|k| k.piece.index() == p && k.begin == b)?;
        Some(self.0.remove(at))
    }
    pub fn cancel(&mut self, _: Block) -> bool {
        false
    }
    pub fn clear(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.0)
    }
    pub fn overdue(&mut self, _: u32) -> Vec<Block> {
        vec![]
    }
    pub fn rate(&self) -> u32 {
        1_000_000
    }
    pub fn is_snubbed(&self, _: u32) -> bool {
        false
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
