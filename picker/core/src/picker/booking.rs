//! The booking: what a pick debits, and where else the request may go.

use std::net::{IpAddr, SocketAddr};

use super::{Picker, earlier, ms};
use crate::action::Pick;
use crate::adapter::Need;
use crate::cost::Work;
use crate::event::{Arrival, Following};
use crate::ledger::{Entry, Prefill};
use crate::member::{self, Member};
use crate::receipt::Receipt;
use crate::schedule::{Ask, Choice, Priced};
use crate::share;
use crate::time::Instant;

impl Picker {
    /// Debits the endpoint that was taken.
    pub(super) fn book(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        ask: &Ask<'_>,
        taken: &Priced,
        receipt: Receipt,
        choice: &Choice,
    ) -> Pick {
        let fallbacks = self.fallbacks(choice, arrival.fallbacks);
        if taken.claim.need != Need::NoAdapter {
            let all = self.members.iter_mut().map(|member| &mut member.sent);
            share::send(all, taken.index, choice.priced.len());
        }
        let member = &mut self.members[taken.index];
        let expected_end = now + ms(receipt.expected_duration_ms.unwrap_or_default());
        let loads = ask
            .model
            .is_some_and(|model| member.adapters.on_pick(model, expected_end));
        self.ledger.open(
            now,
            arrival.key,
            Entry {
                request_id: arrival.request_id.clone(),
                endpoint: member.key,
                served: None,
                model: ask.model,
                max_tokens: arrival.request.max_tokens,
                opened: now,
                following: arrival.following,
                expected_end,
                expected_ttft_ms: receipt.expected_ttft_ms.unwrap_or_default(),
                prompt_bytes: if arrival.request.prompt_ids == 0 {
                    arrival.request.prompt_bytes
                } else {
                    0
                },
                prompt_tokens: receipt.prompt_tokens,
                sequences: ask.work.sequences as u64,
                output_tokens: receipt.output_tokens,
                generated: 0,
                prefill: prefill(arrival, member, taken, &ask.work, loads),
                first_token: None,
            },
        );
        let ttft_ms = receipt.expected_ttft_ms.unwrap_or_default();
        member.health.on_pick(now, taken.own, ttft_ms);
        let sequences = taken.own_sequences + ask.work.sequences as u64;
        member.on_pick(sequences, receipt.prompt_tokens);
        member.hasten(now, member::BEAT_OWN, &mut self.pace);
        self.next_due = earlier(self.next_due, member.due());
        Pick {
            request: arrival.key,
            endpoint: member.key,
            address: member.endpoint.address,
            fallbacks,
            receipt,
        }
    }

    /// At most `count` of the endpoints that were not taken, by cost; those whose IP address none before them has go first.
    fn fallbacks(&self, choice: &Choice, count: usize) -> Vec<SocketAddr> {
        if count == 0 {
            return Vec::new();
        }
        let address = |one: &Priced| self.members[one.index].endpoint.address;
        let taken = choice.priced.iter().take(1);
        let mut hosts: Vec<IpAddr> = taken.map(|one| address(one).ip()).collect();
        let (mut apart, mut beside) = (Vec::new(), Vec::new());
        for address in choice.priced.iter().skip(1).map(address) {
            if hosts.contains(&address.ip()) {
                beside.push(address);
            } else {
                hosts.push(address.ip());
                apart.push(address);
            }
            if apart.len() == count {
                break;
            }
        }
        apart.extend(beside);
        apart.truncate(count);
        apart
    }
}

/// How the end of a request's prefill will be known. It takes a step at the least, in which those that run there each get a token.
fn prefill(arrival: &Arrival, on: &Member, priced: &Priced, work: &Work, loads: bool) -> Prefill {
    if arrival.request.streamed && arrival.following == Following::Full {
        return Prefill::Seen;
    }
    let rates = on.rates();
    let load_ms = if loads { rates.adapter_load_ms } else { 0.0 };
    let slots = on.slots().map_or(f64::INFINITY, |slots| slots as f64);
    let decoding = (priced.own_sequences as f64 / on.engines() as f64).min(slots);
    let prompt_ms = rates.prompt_token_ms * work.prompt_tokens;
    Prefill::Unseen(ms(prompt_ms + rates.step(decoding) + load_ms))
}
