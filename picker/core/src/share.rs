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
/// Above this all weights are made small again.
const WEIGHT_MAX: f64 = 1e100;

/// What the next request weighs. It grows with each, so that those before weigh less and less beside it.
#[derive(Clone, Copy, Debug)]
pub struct Weight(f64);

impl Default for Weight {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Weight {
    /// Notes that a request was sent to the endpoint of `sent`, one of `candidates`.
    pub fn on_pick(&mut self, sent: &mut Sent, candidates: usize) {
        sent.0 += self.0;
        self.0 *= (1.0 / (HALF_LIFE_REQUESTS * candidates.max(1) as f64)).exp2();
    }

    /// What every [`Sent`] is to be divided by, once the weights have become too large; they are small again then.
    pub fn overflow(&mut self) -> Option<f64> {
        (self.0 > WEIGHT_MAX).then(|| std::mem::replace(&mut self.0, 1.0))
    }
}

/// Requests that were sent to one endpoint, each by its [`Weight`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent(f64);

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

    /// Divides it by `overflow`.
    pub fn scale_down(&mut self, overflow: f64) {
        self.0 /= overflow;
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
    fn older_requests_weigh_less_and_weights_stay_finite() {
        let (mut weight, mut sent) = (Weight::default(), [Sent::default(); 2]);
        for number in 0..2_000_000 {
            // The first gets all of the first half.
            weight.on_pick(&mut sent[usize::from(number >= 1_000_000)], 2);
            if number == 1_000_511 {
                let halves = sent[0].0 / sent[1].0;
                assert!((halves - 1.0).abs() < 0.01, "256 for each of two: {halves}");
            }
            if let Some(overflow) = weight.overflow() {
                sent.iter_mut().for_each(|one| one.scale_down(overflow));
            }
        }
        assert!(weight.0.is_finite() && sent[1].0 > 0.0);
        assert_eq!(sent[1].excess_ms(sent[1]), 0.0);
        let mean = Sent::mean(sent.into_iter());
        assert_eq!(sent[0].excess_ms(mean), 0.0, "long ago is forgotten");
        assert!((sent[1].excess_ms(mean) - 50_000.0).abs() < 1.0);
    }
}
