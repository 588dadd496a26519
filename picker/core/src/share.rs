//! What an endpoint was sent of late beside the others: the bound on how much gathers on one while adapters in flight outnumber slots.
//!
//! Where more adapters are asked for than there are slots, the endpoints that run the most wanted ones are the cheapest, however much they get already. So what
//! an endpoint got beyond its share has a price: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350), in milliseconds.
//! What counts is what was sent, not what is in flight: requests that wait for a slot are in flight for long, and take little of an engine's time.

/// So many requests for each candidate halve the weight of those before. Fewer measured worse where loads take seconds, since chance then looks like a share.
const HALF_LIFE_REQUESTS: f64 = 256.0;
/// What one more request costs where as much again as the mean was sent, in milliseconds. With 64 adapters over eight servers of four slots the busiest gets 1.09
/// times the mean; twice as much makes that 1.06, and requests wait a tenth longer.
const WHOLE_SHARE_MS: f64 = 50_000.0;
/// Requests for adapters that were sent to one endpoint; earlier ones count less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent(f64);

/// Notes that a request was sent to number `taken` of `all`, one of so many `candidates`.
pub fn send<'a>(all: impl Iterator<Item = &'a mut Sent>, taken: usize, candidates: usize) {
    let kept = (-1.0 / (HALF_LIFE_REQUESTS * candidates.max(1) as f64)).exp2();
    for (place, sent) in all.enumerate() {
        sent.0 = sent.0 * kept + f64::from(u8::from(place == taken));
    }
}

impl Sent {
    /// The mean of `all`; nothing, if there are none.
    #[must_use]
    pub fn mean(all: impl Iterator<Item = Self>) -> Self {
        let (count, sum) = all.fold((0.0, 0.0), |(count, sum), one| (count + 1.0, sum + one.0));
        Self(sum / f64::max(count, 1.0))
    }

    /// What one more request costs an endpoint that was sent this, and the candidates `mean` each, in milliseconds.
    #[must_use]
    pub fn excess_ms(self, mean: Self) -> f64 {
        let times = if mean.0 > 0.0 { self.0 / mean.0 } else { 0.0 };
        ((times - 1.0) * WHOLE_SHARE_MS).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_mean_costs_in_proportion() {
        let mean = Sent(200.0);
        for (sent, expected) in [
            (0.0, 0.0),
            (200.0, 0.0),
            (210.0, 2_500.0),
            (240.0, 10_000.0),
            (400.0, 50_000.0),
        ] {
            let got = Sent(sent).excess_ms(mean);
            assert!((got - expected).abs() < 1e-6, "{sent}: {got}");
        }
        assert_eq!(Sent(0.0).excess_ms(Sent(0.0)), 0.0, "nothing was sent yet");
    }

    #[test]
    fn older_requests_weigh_less() {
        let mut all = [Sent::default(); 2];
        for number in 0..2_000_000 {
            // The first gets all of the first half.
            send(all.iter_mut(), usize::from(number >= 1_000_000), 2);
            if number == 1_000_511 {
                let halves = all[0].0 / all[1].0;
                assert!((halves - 1.0).abs() < 0.01, "256 for each of two: {halves}");
            }
        }
        assert!(all[1].0.is_finite() && all[1].0 > 0.0);
        assert_eq!(all[1].excess_ms(all[1]), 0.0);
        let mean = Sent::mean(all.into_iter());
        assert_eq!(all[0].excess_ms(mean), 0.0, "long ago is forgotten");
        assert!((all[1].excess_ms(mean) - 50_000.0).abs() < 1.0);
    }
}
