//! `/sim/state`: makes a server of another process crash, hang, slow down, fail or end. vLLM has no such path.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use serde::Deserialize;

use super::Api;
use crate::serve::control::Termination;
use crate::serve::refusal::{json_response, method_not_allowed};

/// What a request asks to change; what it does not name stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    speed: Option<f64>,
    fail_share: Option<f64>,
    state: Option<State>,
    /// How long `drain` waits; 20 s, as recorded, if it is not given.
    timeout_seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Run,
    Hang,
    Crash,
    Cut,
    Fail,
    Drain,
}

impl Api {
    pub(super) async fn state(&self, method: &Method, body: &Bytes) -> Response<Body> {
        if method != Method::POST {
            return method_not_allowed("POST");
        }
        let change = serde_json::from_slice::<Change>(body)
            .map_err(|error| error.to_string())
            .and_then(Change::checked);
        match change {
            Ok(change) => {
                self.apply(&change).await;
                json_response(StatusCode::OK, "{}".into())
            }
            Err(problem) => {
                let text = serde_json::json!({ "error": problem }).to_string();
                json_response(StatusCode::BAD_REQUEST, text)
            }
        }
    }

    async fn apply(&self, change: &Change) {
        if let Some(speed) = change.speed {
            self.control.set_speed(speed).await;
        }
        if let Some(share) = change.fail_share {
            self.control.fail(share);
        }
        let termination = match change.state {
            None => return,
            Some(State::Run) => return self.control.hang(false).await,
            Some(State::Hang) => return self.control.hang(true).await,
            Some(State::Crash) => return self.control.crash().await,
            Some(State::Cut) => Termination::Cut,
            Some(State::Fail) => Termination::Fail,
            Some(State::Drain) => Termination::Drain {
                timeout: Duration::from_secs_f64(change.timeout_seconds.unwrap_or(20.0)),
            },
        };
        // Not awaited: a drain takes as long as the answers that it waits for.
        let control = Arc::clone(&self.control);
        tokio::spawn(async move { control.terminate(termination).await });
    }
}

impl Change {
    fn checked(self) -> Result<Self, String> {
        let check = |name: &str, value: Option<f64>, least: f64, most: f64| match value {
            Some(value) if !(least..=most).contains(&value) => Err(format!(
                "{name} is {value}: give a number from {least} to {most}"
            )),
            _ => Ok(()),
        };
        check("speed", self.speed, 0.001, 1000.0)?;
        check("fail_share", self.fail_share, 0.0, 1.0)?;
        check("timeout_seconds", self.timeout_seconds, 0.0, 86_400.0)?;
        Ok(self)
    }
}
