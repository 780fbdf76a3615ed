//! WeCom's group robots (developer.work.weixin.qq.com/document/path/91770).
//!
//! Taken is `errcode` 0, by HTTP 200 as every refusal. A text holds at most 2,048 bytes of UTF-8; Markdown twice that, but it has no
//! escape, and who reads in WeChat does not see it. The key in the address is the credential.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value, json};

use super::dingtalk::Coded;
use super::webhook::{Chat, Said};
use super::{Pace, text};
use crate::model::Message;

const TEXT_BYTES: usize = 2_048;
/// The window of the limit.
const A_MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct WeCom;

impl Chat for WeCom {
    const KIND: &'static str = "wecom";

    /// 20 a minute are taken; several hosts may share a robot.
    fn pace(&self) -> Pace {
        Pace { every: Duration::from_secs(4), joined_bytes: Some(1_400) }
    }

    fn request(&self, url: Url, message: &Message, _now: Timestamp) -> Option<(Url, Value)> {
        let text = text::plain(message, TEXT_BYTES, text::utf8);
        Some((url, json!({ "msgtype": "text", "text": { "content": text } })))
    }

    fn said(&self, body: &str) -> Option<Said> {
        let coded: Coded = serde_json::from_str(body).ok()?;
        let words = coded.words();
        Some(match coded.errcode {
            0 => Said::Taken,
            45_009 => Said::Later { after: Some(A_MINUTE), words },
            -1 => Said::Later { after: None, words },
            _ => Said::Refused { words },
        })
    }
}
