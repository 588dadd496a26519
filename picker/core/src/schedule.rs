//! The choice: who may serve a request, what it would cost on each, and which is taken.

use serde::Serialize;

use crate::adapter::names::{IdSet, ModelId};
use crate::adapter::{Claim, Need};
use crate::cost::{Cost, FAILURE_MS, Situation, Work};
use crate::endpoint::Subset;
use crate::ledger::{Ledger, Load};
use crate::member::Member;
use crate::member::health::Suspect;
use crate::rates::Rates;
use crate::seed::{Random, rendezvous};
use crate::share::Sent;
use crate::time::Instant;

/// Costs within this of the least are a tie, in milliseconds.
pub const TIE_MS: f64 = 2.0;
/// Costs within this share of what the least exceeds an idle endpoint's cost by are a tie. (Not of the least itself: most
/// of it is the request's own work, the same everywhere, and three hundredths of that hide a prompt ahead.)
pub const TIE_SHARE: f64 = 0.03;
/// A reading of others' load counts for half after this, in milliseconds: unknown is not full, and not zero.
pub const FOREIGN_HALF_LIFE_MS: f64 = 10_000.0;

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The model, where one is named that some endpoint lists.
    pub model: Option<ModelId>,
    /// The hash of the model's name, where one is named.
    pub name_hash: Option<u64>,
    /// The endpoints to which the gateway limits the choice.
    pub subset: Option<&'a Subset>,
    /// The work.
    pub work: Work,
    /// How many candidates have to stand in the order of their costs.
    pub ranked: usize,
}

/// A choice, with all that a receipt tells of it. Made anew for each request in the memory of the last.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// What each candidate would cost; the chosen one first, then by cost, as many as were asked for, then the rest.
    pub priced: Vec<Priced>,
    /// How many of them were so near to the least that chance decided.
    pub ties: usize,
    /// Who was no candidate, and why.
    pub excluded: Vec<(usize, Exclusion)>,
    /// Whether the request was sent to a suspect, to see whether it works.
    pub probe: bool,
    /// Whether the model is known to be served nowhere.
    pub unserved: bool,
    /// Adapters in flight at the candidates.
    wanted: IdSet,
    /// Candidates that are suspect.
    suspects: Vec<(Instant, usize, Load)>,
}

/// What the request would cost on one candidate.
#[derive(Clone, Copy, Debug)]
pub struct Priced {
    /// The candidate's place among the members.
    pub index: usize,
    /// The terms.
    pub cost: Cost,
    /// Their sum, in milliseconds.
    pub cost_ms: f64,
    /// Requests of ours in flight there.
    pub own: u64,
    /// Sequences of those.
    pub own_sequences: u64,
    /// Requests of others there.
    pub foreign: f64,
    /// What the adapter needs there.
    pub claim: Claim,
}

/// Why an endpoint could not be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// The gateway's subset hint leaves it out.
    OutsideSubset,
    /// It does not serve the model, and another endpoint does, or may load it.
    ModelNotServed,
    /// It is suspect.
    Suspect(Suspect),
}

impl Choice {
    /// Chooses among `members`, which stand in the order of their keys. Without candidates, `priced` is empty.
    pub fn make(
        &mut self,
        now: Instant,
        members: &[Member],
        ledger: &Ledger,
        ask: &Ask<'_>,
        random: &mut Random,
    ) {
        self.priced.clear();
        self.excluded.clear();
        self.suspects.clear();
        self.probe = false;
        let servers = Servers::of(members, ask);
        self.unserved = servers == Servers::None;
        let sharers = sharers(members, ask);
        let mut loads = ledger.loads().peekable();
        let nothing = Load::default();
        for (index, member) in members.iter().enumerate() {
            while loads.next_if(|(key, _)| *key < member.key).is_some() {}
            let load = loads.next_if(|(key, _)| *key == member.key);
            let load = load.map_or(&nothing, |(_, load)| load);
            if !inside(member, ask) {
                self.excluded.push((index, Exclusion::OutsideSubset));
            } else if !servers.may_serve(member, ask) {
                self.excluded.push((index, Exclusion::ModelNotServed));
            } else if let Some(suspicion) = member.health.suspicion() {
                self.suspects.push((suspicion.since, index, *load));
            } else {
                self.priced
                    .push(price(now, index, member, load, ask, sharers));
            }
        }
        self.drop_suspects(now, members, ask, sharers);
        self.price_shares(members);
        self.take(members, ask, random);
    }

    /// Of the suspects, at most half of all eligible get nothing, those suspected longest first; the others are candidates. One that
    /// nothing but a request can clear is taken when its time has come.
    fn drop_suspects(&mut self, now: Instant, members: &[Member], ask: &Ask<'_>, sharers: f64) {
        let eligible = self.priced.len() + self.suspects.len();
        self.suspects
            .sort_unstable_by_key(|&(since, index, _)| (since, index));
        for (place, (_, index, load)) in self.suspects.iter().enumerate() {
            let (index, member) = (*index, &members[*index]);
            let probe = !self.probe && member.health.wants_probe(now, load.requests);
            let Some(suspicion) = member.health.suspicion() else {
                continue;
            };
            if place < eligible / 2 && !probe {
                let reason = Exclusion::Suspect(suspicion.reason);
                self.excluded.push((index, reason));
                continue;
            }
            self.priced
                .push(price(now, index, member, load, ask, sharers));
            if probe {
                self.probe = true;
                let last = self.priced.len() - 1;
                self.priced.swap(0, last);
            }
        }
    }

    /// Where more adapters are in flight than there are slots, adds what those cost that were sent more than their share. Shares are equal ones, so nothing is added
    /// where speeds differ.
    fn price_shares(&mut self, members: &[Member]) {
        let waits = |one: &Priced| one.claim.need == Need::Wait || one.claim.delays_ms > 0.0;
        if !self.priced.iter().any(waits)
            || !self.adapters_exceed_slots(members)
            || !alike(self.priced.iter().map(|one| members[one.index].rates()))
        {
            return;
        }
        let sent = |one: &Priced| members[one.index].sent;
        let mean = Sent::mean(self.priced.iter().map(sent));
        for one in &mut self.priced {
            one.cost.share_ms = sent(one).excess_ms(mean).min(FAILURE_MS);
            one.cost_ms = one.cost.total_ms();
        }
    }

    /// Whether more adapters are in flight at the candidates than these have slots. Where they are not, each can have a slot of its own somewhere, and whoever waits
    /// for one waits for copies to go.
    fn adapters_exceed_slots(&mut self, members: &[Member]) -> bool {
        self.wanted.clear();
        let slots: u64 = self
            .priced
            .iter()
            .map(|one| members[one.index].adapters.mark_wanted(&mut self.wanted))
            .map(|slots| slots.map_or(u64::MAX, u64::from))
            .fold(0, u64::saturating_add);
        self.wanted.count() as u64 > slots
    }

    /// Puts the taken one first: the probe, or else the cheapest; chance decides among near ties, so that equal requests spread.
    fn take(&mut self, members: &[Member], ask: &Ask<'_>, random: &mut Random) {
        let least = (0..self.priced.len()).min_by(|&one, &other| {
            self.priced[one]
                .cost_ms
                .total_cmp(&self.priced[other].cost_ms)
        });
        let Some(least) = least else {
            self.ties = 0;
            return;
        };
        let taken = if self.probe {
            self.ties = 1;
            0
        } else {
            self.among_ties(least, members, ask, random)
        };
        self.priced.swap(0, taken);
        let rest = &mut self.priced[1..];
        let by_cost = |one: &Priced, other: &Priced| {
            let by_index = one.index.cmp(&other.index);
            one.cost_ms.total_cmp(&other.cost_ms).then(by_index)
        };
        let ranked = ask.ranked.saturating_sub(1);
        if ranked > 0 && ranked < rest.len() {
            rest.select_nth_unstable_by(ranked - 1, by_cost);
            rest[..ranked].sort_unstable_by(by_cost);
        } else if ranked > 0 {
            rest.sort_unstable_by(by_cost);
        }
    }

    /// One of those that cost about as little as number `least`. Where its adapter has to be loaded the same one is taken each time, and
    /// by every replica (rendezvous hashing), so that an adapter gathers instead of spreading.
    fn among_ties(
        &mut self,
        least: usize,
        members: &[Member],
        ask: &Ask<'_>,
        random: &mut Random,
    ) -> usize {
        let cheapest = &self.priced[least];
        let rates = members[cheapest.index].rates();
        let idle_ms = Cost::of(rates, &Situation::IDLE, &ask.work).total_ms();
        let excess_ms = cheapest.cost_ms - idle_ms;
        let limit = cheapest.cost_ms + f64::max(TIE_MS, TIE_SHARE * excess_ms);
        let loads = cheapest.claim.need.loads();
        let near = || {
            let places = self.priced.iter().enumerate();
            places
                .filter(|(_, one)| one.cost_ms <= limit)
                .map(|(place, _)| place)
        };
        self.ties = near().count();
        let taken = match ask.name_hash.filter(|_| loads) {
            Some(key) => near()
                .max_by_key(|&place| rendezvous(key, members[self.priced[place].index].hash())),
            None => near().nth(random.below(self.ties)),
        };
        taken.unwrap_or(least)
    }
}

/// Who serves the model of a request, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Servers {
    /// Some endpoint lists it.
    Some,
    /// None lists it, but some load adapters at run time.
    Loaders,
    /// Nobody does, and all are known: the server's own answer is the best one then.
    None,
    /// No model is named, or not all models are known.
    Unknown,
}

impl Servers {
    fn of(members: &[Member], ask: &Ask<'_>) -> Self {
        if ask.name_hash.is_none() {
            return Self::Unknown;
        }
        let (mut loaders, mut all_listed) = (false, true);
        for member in members.iter().filter(|member| inside(member, ask)) {
            if ask.model.and_then(|model| member.adapters.serves(model)) == Some(true) {
                return Self::Some;
            }
            loaders |= member.adapters.loads_at_run_time();
            all_listed &= member.adapters.listed();
        }
        match (loaders, all_listed) {
            (true, _) => Self::Loaders,
            (false, true) => Self::None,
            (false, false) => Self::Unknown,
        }
    }

    /// Whether `member` is a candidate. One whose models are not known is: unknown is not no.
    fn may_serve(self, member: &Member, ask: &Ask<'_>) -> bool {
        if !member.adapters.listed() {
            return true;
        }
        match self {
            Self::Some => ask.model.and_then(|model| member.adapters.serves(model)) == Some(true),
            Self::Loaders => member.adapters.loads_at_run_time(),
            Self::None | Self::Unknown => true,
        }
    }
}

fn inside(member: &Member, ask: &Ask<'_>) -> bool {
    ask.subset
        .is_none_or(|subset| subset.contains(member.endpoint.address))
}

/// Whether none of `all` takes twice as long for a step as another: one of 64 sequences, since what the step takes and what each sequence is told apart worse
/// than their sum.
fn alike<'a>(all: impl Iterator<Item = &'a Rates>) -> bool {
    let steps = all.map(|rates| rates.step(64.0));
    let (least, most) = steps.fold((f64::INFINITY, 0.0), |(least, most), step| {
        (f64::min(least, step), f64::max(most, step))
    });
    most < 2.0 * least
}

/// Requests of ours in flight for the adapter that `ask` names, anywhere.
fn sharers(members: &[Member], ask: &Ask<'_>) -> f64 {
    let at = |model| {
        let counts = members
            .iter()
            .map(move |member| member.adapters.in_flight(model));
        counts.map(f64::from).sum()
    };
    ask.model.map_or(0.0, at)
}

/// What `ask` would cost on `member`, where `sharers` requests for the same adapter are in flight anywhere.
fn price(
    now: Instant,
    index: usize,
    member: &Member,
    load: &Load,
    ask: &Ask<'_>,
    sharers: f64,
) -> Priced {
    let rates = member.rates();
    let foreign = match member.foreign() {
        0.0 => 0.0,
        some => {
            let age_ms = member.reading().map_or(0.0, |(at, _)| now.ms_since(*at));
            some * 0.5_f64.powf(age_ms / FOREIGN_HALF_LIFE_MS)
        }
    };
    let engines = member.engines() as f64;
    let requests = (load.sequences as f64 + foreign) / engines;
    let slots = member.slots().map(|slots| slots as f64);
    let claim = ask.model.map_or(Claim::NONE, |model| {
        let slots = slots.unwrap_or(f64::INFINITY);
        let decoding = requests.min(slots);
        let batch = decoding + ask.work.joining(decoding, slots);
        let service_ms = ask.work.output_tokens * rates.step(batch);
        member.adapters.claim(now, model, service_ms)
    });
    let own = load.sequences as f64;
    let situation = Situation {
        requests,
        prefill_ms: load.prefill_ms(now, rates.prompt_token_ms) / engines,
        prefill_share: member.prefill_share(now),
        mean_prompt_tokens: load.prompt_tokens() as f64 / own.max(1.0),
        slots,
        mean_output_tokens: (own > 0.0).then(|| load.output_tokens as f64 / own),
        kv_demand: member.kv_demand(load.context_tokens, ask.work.prompt_tokens),
        claim,
        sharers,
        failure: if member.health.is_suspect() {
            1.0
        } else {
            member.health.failure(now)
        },
    };
    let cost = Cost::of(rates, &situation, &ask.work);
    Priced {
        index,
        cost,
        cost_ms: cost.total_ms(),
        own: load.requests,
        own_sequences: load.sequences,
        foreign,
        claim,
    }
}

impl Priced {
    /// What the adapter needs there.
    #[must_use]
    pub fn need(&self) -> Need {
        self.claim.need
    }
}
