//! How long calls took, there and back.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Trips {
    shortest: Option<Duration>,
    longest: Duration,
}

impl Trips {
    pub(super) async fn time<T>(&mut self, call: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = call.await;
        let took = begun.elapsed();
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
        self.longest = self.longest.max(took);
        answer
    }

    /// "3 to 12 ms a call".
    pub(super) fn text(&self) -> String {
        let (shortest, longest) = (self.shortest.unwrap_or_default().as_millis(), self.longest.as_millis());
        if shortest == longest { format!("{longest} ms a call") } else { format!("{shortest} to {longest} ms a call") }
    }
}
