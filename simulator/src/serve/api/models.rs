//! `/v1/models` and the adapters that are loaded and unloaded at run time.

use serde_json::Value;

use super::{Api, quoted, unix_time};
use crate::serve::openai::field;
use crate::serve::refusal::Refusal;

impl Api {
    /// The base model and every adapter that is served.
    pub(super) fn models(&self) -> String {
        let base = &self.identity.model;
        let length = self.identity.profile.max_model_len.to_string();
        let created = unix_time().as_secs();
        let root = format!("/models/{base}");
        let mut cards = vec![self.model_card(base, &root, None, &length, created)];
        for (name, path) in self.adapters.served() {
            cards.push(self.model_card(&name, &path, Some(base), "null", created));
        }
        format!(r#"{{"object":"list","data":[{}]}}"#, cards.join(","))
    }

    /// `/v1/load_lora_adapter`.
    pub(super) fn load_adapter(&self, body: &Value) -> Result<String, Refusal> {
        let name = field::required_text(body, "lora_name")?;
        let path = field::required_text(body, "lora_path")?;
        let in_place = field::flag(body, "load_inplace");
        self.adapters.load(name, path, in_place)
    }

    /// `/v1/unload_lora_adapter`.
    pub(super) fn unload_adapter(&self, body: &Value) -> Result<String, Refusal> {
        self.adapters
            .unload(field::required_text(body, "lora_name")?)
    }

    /// `/adapters`, as SageMaker calls it.
    pub(super) fn register_adapter(&self, body: &Value) -> Result<String, Refusal> {
        let name = field::required_text(body, "name")?;
        let path = field::required_text(body, "src")?;
        self.adapters
            .load(name, path, field::flag(body, "load_inplace"))?;
        Ok(format!("Adapter {name} registered"))
    }

    fn model_card(
        &self,
        name: &str,
        root: &str,
        parent: Option<&str>,
        max_model_len: &str,
        created: u64,
    ) -> String {
        let parent = parent.map_or_else(|| "null".into(), quoted);
        let permission = format!(
            r#"{{"id":"modelperm-{:016x}","object":"model_permission","created":{created},"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*","group":null,"is_blocking":false}}"#,
            self.draw()
        );
        format!(
            r#"{{"id":{},"object":"model","created":{created},"owned_by":"vllm","root":{},"parent":{parent},"max_model_len":{max_model_len},"permission":[{permission}]}}"#,
            quoted(name),
            quoted(root),
        )
    }
}
