//! One request on its ext_proc streams: what is said when, and what the answers mean.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answer;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, ProcessingRequest, ProcessingResponse, StreamedBodyResponse,
};
use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::Follow;
use super::message::{self, Words};
use crate::load::request::Outcome;

/// Messages that may wait for the connection.
const WAITING: usize = 16;
/// How long after the response Envoy resets the stream of a filter in observability mode: the watch filter's
/// `deferred_close_timeout`.
const WATCH_CLOSES_AFTER: Duration = Duration::from_millis(50);

/// One request, as the proxy goes through it.
pub(super) struct Asking<'a> {
    pub(super) words: &'a Words,
    pub(super) follow: Follow,
    pub(super) frame_bytes: usize,
    pub(super) chunks: u32,
    pub(super) chunk_interval: Duration,
}

/// A gRPC call that is to be made.
pub(super) struct Call {
    pub(super) client: ExternalProcessorClient<Channel>,
    pub(super) metadata: MetadataMap,
}

/// How far the picker has come with its answers; it never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    #[default]
    Asked,
    /// It has asked for the body, by a mode override that stands alone.
    BodyWanted,
    RequestAnswered,
    ResponseAnswered,
}

/// What one half of an exchange tells the other.
#[derive(Debug, Default)]
struct Answered {
    phase: Phase,
    /// The endpoint that was named.
    destination: String,
}

impl Asking<'_> {
    /// The stream of the filter that asks for the pick: to the end of the response in [`Follow::Full`], else of the request.
    pub(super) async fn pick(&self, call: Call, outcome: &mut Outcome) -> Result<(), String> {
        let (say, stream) = Saying::channel();
        let (answered, reached) = watch::channel(Answered::default());
        let mut heard = Heard {
            answered,
            said: stream.said.clone(),
            outcome,
            request_alone: self.follow == Follow::Watched,
            response_alone: self.chunks == 0,
            response_bytes: 0,
        };
        let last = match self.follow {
            Follow::Full => Phase::ResponseAnswered,
            Follow::Watched | Follow::Released => Phase::RequestAnswered,
        };
        let hear = async {
            let mut answers = call.process(stream).await?;
            while heard.phase() < last {
                let answer = answers.message().await.map_err(|status| failure(&status))?;
                heard.on_answer(answer.ok_or("cut_off")?)?;
            }
            // Dropping the stream resets it, as Envoy does once it has all the answers.
            Ok(())
        };
        let speak = async {
            // What cannot be said any more is no failure of its own: the other half of this hears why.
            let _ = self.speak(say, reached).await;
            Ok::<(), String>(())
        };
        tokio::try_join!(hear, speak)?;
        Ok(())
    }

    async fn speak(
        &self,
        say: mpsc::Sender<ProcessingRequest>,
        mut reached: watch::Receiver<Answered>,
    ) -> Result<(), Unheard> {
        say.send(self.words.request_headers(self.follow)).await?;
        if self.follow == Follow::Watched {
            let told = |answered: &Answered| answered.phase > Phase::Asked;
            reached.wait_for(told).await?;
        }
        if reached.borrow().phase < Phase::RequestAnswered {
            let frames = self.words.request_frames(self.frame_bytes, self.follow);
            for frame in frames {
                say.send(frame).await?;
            }
        }
        let whole = |answered: &Answered| answered.phase >= Phase::RequestAnswered;
        reached.wait_for(whole).await?;
        if self.follow != Follow::Full {
            return Ok(());
        }
        let (words, to) = (self.words, reached.borrow().destination.clone());
        say.send(words.response_headers(&to, self.chunks == 0))
            .await?;
        let begun = Instant::now();
        for number in 0..self.chunks {
            sleep_until(begun + self.chunk_interval * number).await;
            let last = number + 1 == self.chunks;
            say.send(words.response_chunk(&to, last)).await?;
        }
        if self.chunks > 0 {
            say.send(Words::response_end(&to)).await?;
        }
        let ended = |answered: &Answered| answered.phase >= Phase::ResponseAnswered;
        reached.wait_for(ended).await?;
        Ok(())
    }

    /// The stream of the filter that watches: headers of both halves, and its end with the response. Returns when that was.
    pub(super) async fn watch(&self, call: Call, destination: &str) -> Result<Instant, String> {
        let (say, stream) = Saying::channel();
        let speak = async {
            // If the picker ends the stream early, the response goes on without it.
            let words = self.words;
            let _ = say.send(words.watched_request(destination)).await;
            let response = words.watched_response(destination, self.chunks == 0);
            let _ = say.send(response).await;
            sleep(self.chunk_interval * self.chunks).await;
            let ended = Instant::now();
            sleep(WATCH_CLOSES_AFTER).await;
            ended
        };
        let hear = async {
            let mut answers = call.process(stream).await?;
            // Envoy takes no notice of answers here.
            loop {
                let answer = answers.message().await.map_err(|status| failure(&status))?;
                if answer.is_none() {
                    return Ok::<(), String>(());
                }
            }
        };
        let mut speak = pin!(speak);
        tokio::select! {
            heard = hear => heard?,
            ended = &mut speak => return Ok(ended),
        }
        Ok(speak.await)
    }
}

impl Call {
    async fn process(
        mut self,
        stream: Saying,
    ) -> Result<tonic::Streaming<ProcessingResponse>, String> {
        let mut request = Request::new(stream);
        *request.metadata_mut() = self.metadata;
        let answers = self.client.process(request).await;
        Ok(answers.map_err(|status| failure(&status))?.into_inner())
    }
}

/// The stream takes nothing more.
struct Unheard;

impl<T> From<mpsc::error::SendError<T>> for Unheard {
    fn from(_: mpsc::error::SendError<T>) -> Self {
        Self
    }
}

impl From<watch::error::RecvError> for Unheard {
    fn from(_: watch::error::RecvError) -> Self {
        Self
    }
}

/// What is said on a stream, noted when the connection takes it.
struct Saying {
    messages: mpsc::Receiver<ProcessingRequest>,
    said: Arc<Mutex<Said>>,
}

/// When things were said.
#[derive(Debug, Default)]
struct Said {
    /// The last piece of the request.
    request: Option<Instant>,
    /// Chunks of the response without answer: all bytes up to the end of each, and when it was said.
    chunks: VecDeque<(usize, Instant)>,
    response_bytes: usize,
}

impl Saying {
    fn channel() -> (mpsc::Sender<ProcessingRequest>, Self) {
        let (say, messages) = mpsc::channel(WAITING);
        let said = Arc::default();
        (say, Self { messages, said })
    }
}

impl Stream for Saying {
    type Item = ProcessingRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(self.messages.poll_recv(context));
        if let Some(message) = &message {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.note(message);
        }
        Poll::Ready(message)
    }
}

impl Said {
    fn note(&mut self, message: &ProcessingRequest) {
        match &message.request {
            Some(Part::RequestHeaders(_) | Part::RequestBody(_)) => {
                self.request = Some(Instant::now());
            }
            Some(Part::ResponseBody(body)) if !body.body.is_empty() => {
                self.response_bytes += body.body.len();
                self.chunks.push_back((self.response_bytes, Instant::now()));
            }
            _ => {}
        }
    }
}

/// What has been answered on a stream.
struct Heard<'a> {
    answered: watch::Sender<Answered>,
    said: Arc<Mutex<Said>>,
    outcome: &'a mut Outcome,
    /// Whether the request's headers are sent without its body, until the picker asks for it.
    request_alone: bool,
    /// Whether the response has no body.
    response_alone: bool,
    /// Bytes of the response that came back.
    response_bytes: usize,
}

impl Heard<'_> {
    fn on_answer(&mut self, answer: ProcessingResponse) -> Result<(), String> {
        match &answer.response {
            None if answer.mode_override.is_some() => self.reach(Phase::BodyWanted),
            Some(Answer::RequestHeaders(_)) => {
                let destination = message::destination(&answer).ok_or("no_endpoint")?;
                self.outcome.server = Some(destination.clone());
                self.answered
                    .send_modify(|answered| answered.destination = destination);
                let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                self.outcome.pick = said.request.map(|at| at.elapsed());
                drop(said);
                // A picker that was shown the headers alone and asks for no body has answered all there is.
                if self.phase() == Phase::Asked && self.request_alone {
                    self.reach(Phase::RequestAnswered);
                }
            }
            Some(Answer::RequestBody(body)) => {
                let frame = streamed(body)?;
                if frame.end_of_stream {
                    self.reach(Phase::RequestAnswered);
                }
            }
            Some(Answer::RequestTrailers(_)) => self.reach(Phase::RequestAnswered),
            Some(Answer::ResponseHeaders(_)) if self.response_alone => {
                self.reach(Phase::ResponseAnswered);
            }
            Some(Answer::ResponseHeaders(_)) => {}
            Some(Answer::ResponseBody(body)) => {
                let body = streamed(body)?;
                self.response_bytes += body.body.len();
                self.chunks_answered(body.end_of_stream);
                if body.end_of_stream {
                    self.reach(Phase::ResponseAnswered);
                }
            }
            Some(Answer::ResponseTrailers(_)) => self.reach(Phase::ResponseAnswered),
            Some(Answer::ImmediateResponse(immediate)) => {
                let status = immediate.status.as_ref().map_or(0, |status| status.code);
                return Err(format!("immediate_{status}"));
            }
            Some(Answer::StreamedImmediateResponse(_)) => {
                return Err("immediate_streamed".to_owned());
            }
            None => {}
        }
        Ok(())
    }

    fn phase(&self) -> Phase {
        self.answered.borrow().phase
    }

    fn reach(&self, phase: Phase) {
        self.answered
            .send_modify(|answered| answered.phase = answered.phase.max(phase));
    }

    /// Chunks whose bytes are all back are answered; with the end of the response, all are.
    fn chunks_answered(&mut self, all: bool) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&(bytes, at)) = said.chunks.front()
            && (all || bytes <= self.response_bytes)
        {
            self.outcome.chunks.push(at.elapsed());
            said.chunks.pop_front();
        }
    }
}

/// A piece of a body as full duplex has it; Envoy breaks the stream off at any other.
fn streamed(body: &BodyResponse) -> Result<&StreamedBodyResponse, String> {
    let mutation = body
        .response
        .as_ref()
        .and_then(|common| common.body_mutation.as_ref())
        .and_then(|mutation| mutation.mutation.as_ref());
    match mutation {
        Some(Mutation::StreamedResponse(frame)) => Ok(frame),
        _ => Err("body_not_streamed".to_owned()),
    }
}

/// What a failed call is counted as.
fn failure(status: &Status) -> String {
    use std::error::Error as _;
    if status.source().is_some() && status.code() == tonic::Code::Unavailable {
        return "connect".to_owned();
    }
    format!("grpc_{:?}", status.code()).to_lowercase()
}
