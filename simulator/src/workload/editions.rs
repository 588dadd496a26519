//! The named workloads, with every parameter of each.

use super::{Gaps, Kind, Law, Span, Workload};

/// Nine of ten requests of [`Workload::mixed`].
const SHORT: Kind = Kind {
    share: 0.9,
    prompt_tokens: Span::exactly(200),
    output_tokens: Span::exactly(100),
};

/// The tenth.
const LONG: Kind = Kind {
    share: 0.1,
    prompt_tokens: Span::exactly(16_000),
    output_tokens: Span::exactly(200),
};

/// Prompts near 200 tokens and answers near 40.
const DEMO: Kind = Kind {
    share: 1.0,
    prompt_tokens: Span::uniform(100, 300),
    output_tokens: Span::uniform(20, 60),
};

impl Workload {
    /// Poisson arrivals of `kinds`, for the base model, and nothing shared between prompts.
    #[must_use]
    pub const fn of(name: &'static str, kinds: Vec<Kind>) -> Self {
        Self {
            name,
            kinds,
            adapters: 0,
            zipf_exponent: 0.0,
            adapter_groups: Vec::new(),
            gaps: Gaps::Poisson,
            prefixes: None,
            sessions: None,
            priorities: Vec::new(),
            trace: None,
        }
    }

    /// 512 tokens in and 128 out, on 15 adapters: 60, 30 and 10 % of the requests go to three groups of five. The adapter mix
    /// of the Gateway API Inference Extension's regression tests (site-src/performance/regression-testing), whose servers
    /// have three slots each.
    #[must_use]
    pub fn lora() -> Self {
        let kind = Kind {
            share: 1.0,
            prompt_tokens: Span::exactly(512),
            output_tokens: Span::exactly(128),
        };
        Self {
            adapters: 15,
            adapter_groups: vec![0.6, 0.3, 0.1],
            ..Self::of("lora", vec![kind])
        }
    }

    /// Nine short requests (200 tokens in, 100 out) and a long one (16,000 in, 200 out), which holds up whoever shares its
    /// server; no adapters.
    #[must_use]
    pub fn mixed() -> Self {
        Self::of("mixed", vec![SHORT, LONG])
    }

    /// [`Workload::mixed`] in bursts: gamma gaps with a coefficient of variation of 4.
    #[must_use]
    pub fn bursts() -> Self {
        Self {
            name: "bursts",
            gaps: Gaps::Gamma(4.0),
            ..Self::mixed()
        }
    }

    /// [`Workload::mixed`], to be sent faster than servers can answer ([`Workload::rate_of_capacity`]).
    #[must_use]
    pub fn overload() -> Self {
        Self {
            name: "overload",
            ..Self::mixed()
        }
    }

    /// [`Workload::mixed`], to be sent to servers of which half are slower.
    #[must_use]
    pub fn hetero() -> Self {
        Self {
            name: "hetero",
            ..Self::mixed()
        }
    }

    /// [`Workload::mixed`], to be sent to servers that hang, crash and show stale metrics.
    #[must_use]
    pub fn failures() -> Self {
        Self {
            name: "failures",
            ..Self::mixed()
        }
    }

    /// Small requests on 12 adapters, a few of them asked for most of the time: three times as many as one demo server has
    /// slots for. An edition for slow modelled cards.
    #[must_use]
    pub fn demo_lora() -> Self {
        Self {
            adapters: 12,
            zipf_exponent: 1.0,
            ..Self::of("demo_lora", vec![DEMO])
        }
    }

    /// Nine small requests and one long prompt; no adapters. An edition for slow modelled cards.
    #[must_use]
    pub fn demo_mixed() -> Self {
        let small = Kind { share: 0.9, ..DEMO };
        let long = Kind {
            share: 0.1,
            prompt_tokens: Span::uniform(2000, 4000),
            output_tokens: Span::uniform(40, 120),
        };
        Self::of("demo_mixed", vec![small, long])
    }

    /// Requests all alike, over `adapters` adapters by Zipf's law with exponent 1.
    #[must_use]
    pub fn uniform(prompt_tokens: u32, output_tokens: u32, adapters: u32) -> Self {
        let kind = Kind {
            share: 1.0,
            prompt_tokens: Span::exactly(prompt_tokens.max(1)),
            output_tokens: Span::exactly(output_tokens.max(1)),
        };
        Self {
            adapters,
            zipf_exponent: 1.0,
            ..Self::of("uniform", vec![kind])
        }
    }

    /// Every named workload.
    #[must_use]
    pub fn all() -> [Self; 8] {
        [
            Self::lora(),
            Self::mixed(),
            Self::bursts(),
            Self::hetero(),
            Self::overload(),
            Self::failures(),
            Self::demo_lora(),
            Self::demo_mixed(),
        ]
    }

    /// The workload called `name`.
    ///
    /// # Errors
    /// Lists the names that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let named = Self::all().into_iter().find(|one| one.name == name);
        named.ok_or_else(|| {
            let names = Self::all().map(|workload| workload.name).join(", ");
            format!("no workload is called {name}: choose one of {names}")
        })
    }

    /// The profile that its lengths are meant for, by name.
    #[must_use]
    pub fn profile_name(&self) -> &'static str {
        if self.name.starts_with("demo_") {
            "demo"
        } else {
            "8b-h100"
        }
    }

    /// The rate at which it is sent where nothing else is said, as a share of the capacity.
    #[must_use]
    pub fn rate_of_capacity(&self) -> f64 {
        if self.name == "overload" { 1.2 } else { 0.7 }
    }

    /// What clients send, in one line.
    #[must_use]
    pub fn description(&self) -> String {
        let kinds = self.kinds.iter().map(|kind| {
            let (prompt, output) = (length(kind.prompt_tokens), length(kind.output_tokens));
            format!(
                "{:.0} %: {prompt} prompt tokens, {output} generated",
                kind.share * 100.0
            )
        });
        let mut parts: Vec<String> = kinds.collect();
        parts.extend(self.trace.as_ref().map(|trace| trace.file.clone()));
        parts.push(match self.adapters {
            0 => "no adapters".to_owned(),
            count if self.adapter_groups.is_empty() => format!(
                "{count} adapters by Zipf's law, exponent {:.1}",
                self.zipf_exponent
            ),
            count => {
                let shares = self.adapter_groups.iter();
                let shares: Vec<String> = shares
                    .map(|share| format!("{:.0}", share * 100.0))
                    .collect();
                let groups = self.adapter_groups.len();
                format!(
                    "{count} adapters, {} % over {groups} groups",
                    shares.join("/")
                )
            }
        });
        parts.push(match self.gaps {
            Gaps::Poisson => "Poisson arrivals".to_owned(),
            Gaps::Constant => "equal gaps".to_owned(),
            Gaps::Gamma(cv) => format!("gamma gaps, CV {cv}"),
            Gaps::Trace => "gaps of the trace".to_owned(),
        });
        parts.join("; ")
    }
}

fn length(span: Span) -> String {
    match span.law {
        Law::Uniform if span.least == span.most => span.least.to_string(),
        Law::Uniform => format!("{} to {}", span.least, span.most),
        Law::Lognormal { median, sigma } => format!("lognormal ({median}, {sigma})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Profile;

    #[test]
    fn every_workload_is_found_by_its_name_and_fits_its_profile() {
        for workload in Workload::all() {
            assert_eq!(Workload::named(workload.name), Ok(workload.clone()));
            let profile = Profile::named(workload.profile_name()).expect("there is one");
            for kind in &workload.kinds {
                let tokens = kind.prompt_tokens.most + kind.output_tokens.most;
                assert!(tokens <= profile.max_model_len, "{}", workload.name);
            }
        }
        let error = Workload::named("chat").expect_err("not built");
        assert!(
            error.contains("lora, mixed, bursts, hetero, overload, failures"),
            "{error}"
        );
    }

    #[test]
    fn a_description_says_lengths_adapters_and_arrivals() {
        assert_eq!(
            Workload::lora().description(),
            "100 %: 512 prompt tokens, 128 generated; 15 adapters, 60/30/10 % over 3 groups; Poisson arrivals"
        );
        assert!(
            Workload::bursts()
                .description()
                .ends_with("gamma gaps, CV 4")
        );
    }
}
