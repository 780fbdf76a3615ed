//! One suite for all that take messages by HTTP: what each of them must do, told by receivers that answer as the real ones do.

use std::sync::Arc;
use std::time::Duration;

use super::alertmanager::Alertmanager;
use super::dingtalk::DingTalk;
use super::discord::Discord;
use super::feishu::Feishu;
use super::pagerduty::PagerDuty;
use super::receivers::{self as receive, Answers, Mood, NOW, Receiver, SECRET, TOKEN};
use super::slack::Slack;
use super::teams::Teams;
use super::telegram::Telegram;
use super::tests::{message, via};
use super::webhook::{Chat, Webhook};
use super::wecom::WeCom;
use super::{DeliveryError, Letter, Notifier};
use crate::clock::{Clock, ManualClock};
use crate::model::{EventKind, Message};

struct Kind {
    name: &'static str,
    answers: Answers,
    /// With `{token}` in it.
    path: &'static str,
    make: fn(url: String, token: &str, key: &str) -> Arc<dyn Notifier>,
    signs: bool,
    /// What it says to a wrong token; to too many messages, and for how long.
    wrong_token: &'static str,
    too_many: Option<(&'static str, Option<u64>)>,
}

fn webhook(chat: impl Chat + 'static, url: String) -> Arc<dyn Notifier> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(jiff::Timestamp::from_second(NOW).unwrap()));
    Arc::new(Webhook::new(chat, url.into(), &via(), clock).unwrap())
}

fn secret(secret: &str) -> Option<secrecy::SecretString> {
    Some(secret.to_owned().into())
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "slack",
        answers: receive::slack,
        path: "/services/T0/B0/{token}",
        make: |url, _, _| Arc::new(Slack::new(url.into(), &via()).unwrap()),
        signs: false,
        wrong_token: "invalid_token",
        too_many: Some(("ratelimited", Some(30))),
    },
    Kind {
        name: "dingtalk",
        answers: receive::dingtalk,
        path: "/robot/send?access_token={token}",
        make: |url, _, key| webhook(DingTalk { secret: secret(key) }, url),
        signs: true,
        wrong_token: "300001: token is not exist",
        too_many: Some(("130101: send too fast, exceed 20 times per minute", Some(600))),
    },
    Kind {
        name: "feishu",
        answers: receive::feishu,
        path: "/open-apis/bot/v2/hook/{token}",
        make: |url, _, key| webhook(Feishu { secret: secret(key) }, url),
        signs: true,
        wrong_token: "19001: param invalid: incoming webhook access token invalid",
        too_many: Some(("11232: frequency limited", Some(60))),
    },
    Kind {
        name: "wecom",
        answers: receive::wecom,
        path: "/cgi-bin/webhook/send?key={token}",
        make: |url, _, _| webhook(WeCom, url),
        signs: false,
        wrong_token: "93000: invalid webhook url, hint: [1592021214",
        too_many: Some(("45009: api freq out of limit", Some(60))),
    },
    Kind {
        name: "teams",
        answers: receive::teams,
        path: "/workflows/a1/triggers/manual/paths/invoke?api-version=1&sig={token}",
        make: |url, _, _| webhook(Teams { bare_card: false }, url),
        signs: false,
        wrong_token: "DirectApiAuthorizationRequired: The request has SAS",
        too_many: Some(("Rate limit is exceeded", Some(17))),
    },
    Kind {
        name: "discord",
        answers: receive::discord,
        path: "/api/webhooks/113/{token}",
        make: |url, _, _| webhook(Discord, url),
        signs: false,
        wrong_token: "Invalid Webhook Token",
        too_many: Some(("You are being rate limited.", Some(4))),
    },
    Kind {
        name: "telegram",
        answers: receive::telegram,
        path: "/bot{token}/sendMessage",
        make: |url, _, _| webhook(Telegram { chat: "-100200".into(), topic: None }, url),
        signs: false,
        wrong_token: "Unauthorized",
        too_many: Some(("Too Many Requests: retry after 35", Some(35))),
    },
    Kind {
        name: "pagerduty",
        answers: receive::pagerduty,
        path: "/v2/enqueue",
        make: |url, token, _| webhook(PagerDuty { routing_key: token.to_owned().into() }, url),
        signs: false,
        wrong_token: "invalid event: Event object is invalid: Invalid routing key",
        too_many: Some(("throttle exceeded: Requests for this service are arriving too quickly.", None)),
    },
    Kind {
        name: "alertmanager",
        answers: receive::alertmanager,
        path: "/api/v2/alerts",
        make: |url, token, _| webhook(Alertmanager { login: Some(("unwait".into(), token.to_owned().into())) }, url),
        signs: false,
        wrong_token: "401 Unauthorized: Unauthorized",
        too_many: None,
    },
];

impl Kind {
    async fn tells(&self, mood: Mood, token: &str, key: &str, message: &Message) -> Result<(), DeliveryError> {
        let receiver = Receiver::of(self.answers, mood).await;
        let notifier = (self.make)(receiver.url(&self.path.replace("{token}", token)), token, key);
        let told = notifier.deliver(Letter::new("m-1", message)).await;
        for hidden in [token, key, TOKEN, SECRET] {
            assert!(!format!("{told:?}").contains(hidden), "{}: {told:?}", self.name);
        }
        told.map(drop)
    }
}

fn long() -> Message {
    let mut long = message();
    long.title = "\"*<磁盘😀".repeat(3_000);
    long.lines = vec!["\\_\"连接泄漏😀\u{7}".repeat(2_000); 40];
    long.labels = vec!["机房=北京".repeat(2_000)];
    long
}

#[tokio::test]
async fn what_a_destination_takes_is_delivered_however_long_it_is() {
    let mut chinese = message();
    chinese.title = "rpc-order.service @ bj1-03:已恢复 😀".into();
    let mut bare = message();
    bare.lines.clear();
    bare.labels.clear();
    // What opens an alert, where alerts are kept.
    let stuck = Message { event: EventKind::Stuck, ..long() };
    for kind in &KINDS {
        for message in [message(), chinese.clone(), bare.clone(), long(), stuck.clone()] {
            let told = kind.tells(Mood::Well, TOKEN, SECRET, &message).await;
            assert_eq!(told, Ok(()), "{}: {}", kind.name, &message.title[..20]);
        }
    }
}

#[tokio::test]
async fn a_refusal_has_the_destinations_own_words_and_no_secret() {
    for kind in &KINDS {
        let told = kind.tells(Mood::Well, "hush-wrong-77", SECRET, &message()).await;
        // A person may mend a token, where the status tells that it is at fault.
        let Err(DeliveryError::Refused { detail } | DeliveryError::Later { detail, .. }) = told else {
            panic!("{}: {told:?}", kind.name)
        };
        assert!(detail.starts_with(kind.name) && detail.contains(kind.wrong_token), "{detail}");
        if kind.signs {
            let told = kind.tells(Mood::Well, TOKEN, "SEC-hush-wrong", &message()).await;
            let Err(DeliveryError::Refused { detail } | DeliveryError::Later { detail, .. }) = told else {
                panic!("{}: {told:?}", kind.name)
            };
            assert!(detail.contains("sign"), "{detail}");
        }
    }
}

#[tokio::test]
async fn too_many_messages_are_sent_later_when_the_destination_says() {
    for kind in &KINDS {
        let Some((words, seconds)) = kind.too_many else { continue };
        let told = kind.tells(Mood::TooMany, TOKEN, SECRET, &message()).await;
        let Err(DeliveryError::Later { after, detail }) = told else { panic!("{}: {told:?}", kind.name) };
        assert_eq!(after.map(|after| after.as_secs()), seconds, "{}", kind.name);
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_later_and_another_servers_page_is_no_yes() {
    for kind in &KINDS {
        for mood in [Mood::Down, Mood::Proxy] {
            let told = kind.tells(mood, TOKEN, SECRET, &message()).await;
            assert!(matches!(told, Err(DeliveryError::Later { after: None, .. })), "{}: {told:?}", kind.name);
        }
        let away = (kind.make)(format!("http://127.0.0.1:1{}", kind.path.replace("{token}", TOKEN)), TOKEN, SECRET);
        let told = away.deliver(Letter::new("m-1", &message())).await;
        assert!(matches!(told, Err(DeliveryError::Later { after: None, .. })), "{}: {told:?}", kind.name);
        assert!(!format!("{told:?}").contains(TOKEN) && !format!("{told:?}").contains("127.0.0.1"), "{told:?}");
    }
}

#[test]
fn what_people_read_comes_once_a_second_at_most() {
    for kind in &KINDS {
        let pace = (kind.make)("http://127.0.0.1:1/hush".into(), TOKEN, SECRET).pace();
        assert!(pace.every >= Duration::from_secs(1) || pace.joined_bytes.is_none(), "{}: {pace:?}", kind.name);
    }
}

#[tokio::test]
async fn joined_lines_arrive_to_the_last_one() {
    for kind in &KINDS {
        let receiver = Receiver::of(kind.answers, Mood::Well).await;
        let notifier = (kind.make)(receiver.url(&kind.path.replace("{token}", TOKEN)), TOKEN, SECRET);
        let mut joined = message();
        joined.lines.clear();
        let Some(most) = notifier.pace().joined_bytes.map(|most| most - joined.title.len()) else { continue };
        while joined.lines.iter().map(|line: &String| line.len() + 1).sum::<usize>() + 60 < most {
            joined.lines.push(format!("rpc-{:03}.service on bj1-03: no action: paused", joined.lines.len()));
        }
        joined.lines.push("the-last-one".into());
        notifier.deliver(Letter::new("m-1", &joined)).await.unwrap();
        let text = receiver.last().text.replace('\\', "");
        assert!(text.contains("the-last-one"), "{}: {text}", kind.name);
    }
}
