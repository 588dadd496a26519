//! The choice: who may serve a request, what it would cost on each, and which is taken.

use serde::Serialize;

use crate::adapter::Need;
use crate::cost::{Cost, Rates, Situation, Work};
use crate::endpoint::Subset;
use crate::ledger::{Ledger, Load};
use crate::member::{Member, Suspect};
use crate::seed::Random;
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
    /// The model, where one is named.
    pub model: Option<&'a str>,
    /// The endpoints to which the gateway limits the choice.
    pub subset: Option<&'a Subset>,
    /// The work.
    pub work: Work,
}

/// A choice, with all that a receipt tells of it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// What each candidate would cost; the chosen one first, then by cost.
    pub priced: Vec<Priced>,
    /// How many of them were so near to the least that chance decided.
    pub ties: usize,
    /// Who was no candidate, and why.
    pub excluded: Vec<(usize, Exclusion)>,
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
    /// Ours in flight there.
    pub load: Load,
    /// Requests of others there.
    pub foreign: f64,
    /// What the adapter needs there.
    pub adapter: Need,
}

/// Why an endpoint could not be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// The gateway's subset hint leaves it out.
    OutsideSubset,
    /// It does not serve the model, and another endpoint does.
    ModelNotServed,
    /// It is suspect.
    Suspect(Suspect),
}

/// Chooses among `members`, which stand in the order of their keys. Without candidates, `priced` is empty.
#[must_use]
pub fn choose(
    now: Instant,
    members: &[Member],
    ledger: &Ledger,
    ask: &Ask<'_>,
    random: &mut Random,
) -> Choice {
    let mut excluded = Vec::new();
    let eligible = eligible(members, ask, &mut excluded);
    let dropped = suspects_to_drop(members, &eligible);
    let mut loads = ledger.loads().peekable();
    let mut priced = Vec::with_capacity(eligible.len());
    for index in eligible {
        let member = &members[index];
        while loads.next_if(|(key, _)| *key < member.key).is_some() {}
        let load = loads
            .next_if(|(key, _)| *key == member.key)
            .map(|(_, load)| load);
        if let (true, Some(suspicion)) = (dropped.contains(&index), member.suspicion()) {
            excluded.push((index, Exclusion::Suspect(suspicion.reason)));
            continue;
        }
        priced.push(price(now, index, member, load.unwrap_or_default(), ask));
    }
    let idle_ms = Cost::of(&Rates::PRIOR, &Situation::IDLE, &ask.work).total_ms();
    let ties = take(&mut priced, idle_ms, random);
    Choice {
        priced,
        ties,
        excluded,
    }
}

/// The members that the subset and the model leave, in order.
///
/// A model that no member is known to serve excludes nobody: the server's own answer is the best one then.
fn eligible(
    members: &[Member],
    ask: &Ask<'_>,
    excluded: &mut Vec<(usize, Exclusion)>,
) -> Vec<usize> {
    let serves = |member: &Member| ask.model.and_then(|model| member.adapters.serves(model));
    let inside = |member: &Member| {
        ask.subset
            .is_none_or(|subset| subset.contains(member.endpoint.address))
    };
    let served = members
        .iter()
        .any(|member| inside(member) && serves(member) == Some(true));
    let mut eligible = Vec::with_capacity(members.len());
    for (index, member) in members.iter().enumerate() {
        if !inside(member) {
            excluded.push((index, Exclusion::OutsideSubset));
        } else if served && serves(member) == Some(false) {
            excluded.push((index, Exclusion::ModelNotServed));
        } else {
            eligible.push(index);
        }
    }
    eligible
}

/// The suspects that get nothing: at most half of the eligible, those suspected longest first.
fn suspects_to_drop(members: &[Member], eligible: &[usize]) -> Vec<usize> {
    let since = |index: &usize| members[*index].suspicion().map(|suspicion| suspicion.since);
    let mut suspects: Vec<usize> = eligible
        .iter()
        .copied()
        .filter(|index| since(index).is_some())
        .collect();
    suspects.sort_by_key(since);
    suspects.truncate(eligible.len() / 2);
    suspects
}

/// What `ask` would cost on `member`.
fn price(now: Instant, index: usize, member: &Member, load: Load, ask: &Ask<'_>) -> Priced {
    let age_ms = member.reading().map_or(0.0, |(at, _)| now.ms_since(*at));
    let foreign = member.foreign() * 0.5_f64.powf(age_ms / FOREIGN_HALF_LIFE_MS);
    let adapter = ask
        .model
        .map_or(Need::NoAdapter, |model| member.adapters.need(model));
    let situation = Situation {
        requests: load.requests as f64 + foreign,
        prefill_tokens: load.prefill_tokens as f64,
        slots: member.slots().map(|slots| slots as f64),
        adapter,
        suspect: member.suspicion().is_some(),
    };
    let cost = Cost::of(&Rates::PRIOR, &situation, &ask.work);
    Priced {
        index,
        cost,
        cost_ms: cost.total_ms(),
        load,
        foreign,
        adapter,
    }
}

/// Orders by cost and puts the taken one first; chance decides among near ties, so that equal requests spread.
/// Returns the number of those. `idle_ms` is what the request would cost where nothing else is.
fn take(priced: &mut [Priced], idle_ms: f64, random: &mut Random) -> usize {
    priced.sort_by(|one, other| one.cost_ms.total_cmp(&other.cost_ms));
    let Some(least) = priced.first().map(|least| least.cost_ms) else {
        return 0;
    };
    let limit = least + f64::max(TIE_MS, TIE_SHARE * (least - idle_ms));
    let ties = priced.iter().take_while(|one| one.cost_ms <= limit).count();
    let taken = random.below(ties);
    priced[..=taken].rotate_right(1);
    ties
}
