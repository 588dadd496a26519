//! The decision about one request: its pool, its model, and its endpoint, or the answer in the server's place.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use picker_core::action;
use picker_core::event::Following;
use picker_core::refusal::{Reason, Refusal};
use picker_core::request::{Request, Splice};
use picker_core::response::Rename;
use picker_core::route::{Call, PoolKey, Told};
use picker_core::time::Instant;
use picker_core::view::Asked;
use picker_core::view::rewrite::{Naming, Rewriting, Target};

use super::Exchange;
use super::request_half::RequestHalf;
use crate::driver::{Ask, Flight, Handle, Refused};
use crate::extproc::attributes::Head;
use crate::extproc::conformance;
use crate::extproc::modes::{BodyMode, Follow};
use crate::extproc::reply::{self, Picked, Place};

/// Where the body of a request names its model, if that may be changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown<'a> {
    /// The bytes of the body that are the name.
    pub(super) name: Option<Range<u64>>,
    /// The body, where the proxy keeps it and takes another from our answer; elsewhere its frames are given back by us.
    pub(super) body: Option<&'a [u8]>,
}

impl Exchange {
    /// Picks, and answers with the pick or in the server's place. Returns what is to be done to the frames of the body, if anything.
    pub(super) fn decide(
        &mut self,
        now: Instant,
        place: Place,
        head: &Head,
        request: Request,
        shown: Shown<'_>,
    ) -> Option<Splice> {
        let edge = self.edge.clone();
        let routes = edge.pools.routes();
        let fields = head.fields();
        let resolved = match routes.resolve(&self.call(head, &fields)) {
            Ok(found) => found,
            Err(none) => {
                edge.metrics.on_no_pool();
                self.refuse(head, Reason::NoPool, none.to_string(), None);
                return None;
            }
        };
        let pool = resolved.pool;
        let Some(handle) = edge.pools.get(pool) else {
            let message = Refused::without_endpoints().explain(pool);
            self.refuse(head, Reason::NoEndpoints, message, None);
            return None;
        };
        if self.answer_with_catalogue(head, &handle) {
            return None;
        }
        let told = (resolved.by, resolved.or.into());
        let (ask, splice) = self.ask(&handle, told, head, request, &shown);
        match handle.pick(ask) {
            Ok(flight) => self.answer_with(now, place, head, flight, splice, shown.body),
            Err(refused) => {
                let (reason, retry_after_s) = match refused.refusal {
                    action::Refusal::NoEndpoints => (Reason::NoEndpoints, None),
                    action::Refusal::EmptySubset => (Reason::EmptySubset, None),
                    action::Refusal::Overloaded { retry_after_s } => {
                        (Reason::Overloaded, retry_after_s)
                    }
                };
                self.refuse(head, reason, refused.explain(pool), retry_after_s);
                None
            }
        }
    }

    /// What is held of bodies for the pool that the request is for, as far as is known before its body; nothing where there is one
    /// pool, which has the whole budget.
    pub(super) fn share(&self, head: &Head) -> Option<Arc<AtomicI64>> {
        let pools = &self.edge.pools;
        if pools.count() < 2 {
            return None;
        }
        let fields = head.fields();
        let routes = pools.routes();
        let resolved = routes.resolve(&self.call(head, &fields)).ok()?;
        pools.get(resolved.pool).map(|handle| handle.held())
    }

    /// The call and the request, as far as they say which pool it is for.
    fn call<'a>(&'a self, head: &'a Head, fields: &'a [(&'a str, &'a str)]) -> Call<'a> {
        Call {
            port: self.caller.port,
            authority: self.caller.authority.as_deref(),
            metadata: self.caller.pool.as_deref(),
            attributes: &self.caller.attributes,
            subset: self.subset.as_ref(),
            head: Some(head.for_routes(fields)),
        }
    }

    /// What the pool is asked: the request as its server will get it, how much it matters, and what puts another model into its body.
    fn ask(
        &mut self,
        handle: &Handle,
        (told, or): (Told, Arc<[PoolKey]>),
        head: &Head,
        request: Request,
        shown: &Shown<'_>,
    ) -> (Ask, Option<Splice>) {
        let mut request = request.or_model(head.model.as_deref());
        let pairs = head.pairs();
        let asked = Asked {
            model: request.model.as_deref(),
            headers: &pairs,
        };
        let standing = handle.view().standing(&asked);
        let target = if self.observed {
            None
        } else {
            handle.target(&asked)
        };
        let rewrite = target.map(|it| self.rewrite(it, &mut request, shown));
        let splice = rewrite.as_ref().and_then(|rewrite| {
            let put = matches!(rewrite.naming, Naming::PutBack | Naming::Stays);
            let name = shown.name.clone().filter(|_| put)?;
            Some(Splice::new(name, &rewrite.model))
        });
        let ask = Ask {
            request_id: head.request_id.clone(),
            request,
            standing,
            rewrite,
            subset: self.subset.take(),
            following: match self.follow() {
                Follow::Full => Following::Full,
                Follow::Watched | Follow::WatchFilter => Following::Watched,
                Follow::Released => Following::Released,
            },
            fallbacks: self.edge.settings.fallbacks,
            within: self.edge.settings.pick_budget,
            told,
            or,
        };
        (ask, splice)
    }

    /// Answers with a pick, and with another body where the proxy keeps it.
    fn answer_with(
        &mut self,
        now: Instant,
        place: Place,
        head: &Head,
        flight: Flight,
        mut splice: Option<Splice>,
        body: Option<&[u8]>,
    ) -> Option<Splice> {
        let body = body.and_then(|body| splice.take()?.pass(body));
        let answer = Picked {
            endpoints: flight.endpoints(),
            new_request_id: head.new_id.then_some(&*head.request_id),
            remove: &head.control,
            resized: splice.is_some(),
            body,
            ask_for_response: self.asked_for_response,
        };
        let mut answer = answer.answer(place);
        if self.edge.settings.trust.test_selection
            && let Some(first) = flight.endpoints().first()
        {
            conformance::ask_for_echo(&mut answer, &first.to_string());
        }
        self.answers.push(answer);
        if !matches!(self.request, RequestHalf::Whole) {
            self.request = RequestHalf::Passing;
        }
        self.keep(now, flight);
        splice
    }

    /// Gives the request another model, as far as its body can be changed, and prepares that the client sees its own name for it.
    fn rewrite(&mut self, target: Target, request: &mut Request, shown: &Shown<'_>) -> Rewriting {
        let asked = request.model.clone();
        let naming = match &asked {
            Some(asked) if *asked == target.model => Naming::Unchanged,
            Some(asked) if shown.name.is_some() => {
                request.model = Some(target.model.clone());
                if self.shows_response() {
                    self.response.rename = Some(Rename::new(asked));
                    Naming::PutBack
                } else {
                    Naming::Stays
                }
            }
            _ => Naming::NotPut,
        };
        Rewriting {
            asked,
            model: target.model,
            arm: target.arm,
            naming,
        }
    }

    /// Whether the response will pass here. A proxy that was asked for the request's body is asked for the response, too.
    fn shows_response(&mut self) -> bool {
        if self.modes.response == BodyMode::Unsent && self.asked_for_body {
            self.asked_for_response = true;
            self.modes.response = BodyMode::Duplex { messages: false };
        }
        self.modes.response != BodyMode::Unsent
    }

    /// Answers a request for the list of models by what the pool's servers list together.
    fn answer_with_catalogue(&mut self, head: &Head, handle: &Handle) -> bool {
        let path = head.path.split(['?', '#']).next().unwrap_or_default();
        let wanted = head.gets && path.trim_end_matches('/').ends_with("/v1/models");
        if !wanted || !self.edge.settings.catalogue || self.observed {
            return false;
        }
        let Some(list) = handle.catalogue() else {
            return false;
        };
        self.request = RequestHalf::Answered;
        self.edge.metrics.on_catalogue();
        self.answers.push(reply::page(list));
        true
    }

    /// Answers in the server's place.
    fn refuse(&mut self, head: &Head, reason: Reason, message: String, retry_after_s: Option<u32>) {
        self.request = RequestHalf::Answered;
        let refusal = Refusal {
            reason,
            message,
            retry_after_s,
        };
        let answer = refusal.answer(head.dialect);
        self.answers.push(reply::immediate(reason, answer));
    }

    /// Keeps a flight until the end of its response is known.
    fn keep(&mut self, now: Instant, flight: Flight) {
        if self.observed {
            // The request goes where somebody else sends it: nothing is in flight for us.
            return self.edge.metrics.on_decided(None);
        }
        let follow = self.follow();
        self.edge.metrics.on_decided(Some(follow));
        if follow == Follow::WatchFilter {
            self.parked = Some((flight.request_id().clone(), flight.key()));
            self.edge.watches.park(now, flight);
        } else {
            self.flight = Some(flight);
        }
    }
}
