//! Against a workspace that answers as Slack's Web API does (its methods' pages, read on 2026-11-30).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::tests::{Server, message, via};
use super::*;
use crate::trust;

const CHANNEL: &str = "C0123456789";

#[derive(Clone, Debug, PartialEq)]
struct Posted {
    text: String,
    blocks: String,
    thread: Option<String>,
    in_channel: bool,
    edits: usize,
}

#[derive(Debug, Default)]
struct Workspace {
    token: String,
    /// The word that each channel is refused by, where it is.
    channels: BTreeMap<String, Option<&'static str>>,
    /// By `ts`.
    messages: BTreeMap<String, Posted>,
    /// What is answered next, whatever is asked.
    next: Vec<String>,
    calls: Vec<String>,
}

fn json_answer(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "{status}\r\nContent-Type: application/json; charset=utf-8\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Workspace {
    fn answer(&mut self, request: &str) -> String {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let method = head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
        self.calls.push(method.clone());
        if let Some(next) = self.next.pop() {
            return next;
        }
        let answer = match self.carry_out(&method, head, &serde_json::from_str(body).unwrap()) {
            Ok(ts) => json!({ "ok": true, "channel": CHANNEL, "ts": ts, "message": {} }),
            Err(error) => json!({ "ok": false, "error": error }),
        };
        json_answer("200 OK", "", &answer)
    }

    fn carry_out(&mut self, method: &str, head: &str, body: &Value) -> Result<String, &'static str> {
        let bearer = format!("bearer {}", self.token).to_ascii_lowercase();
        if !head.to_ascii_lowercase().contains(&bearer) {
            return Err("invalid_auth");
        }
        let text = |key: &str| body[key].as_str().map(ToOwned::to_owned);
        match self.channels.get(&text("channel").unwrap_or_default()) {
            None => return Err("channel_not_found"),
            Some(Some(refusal)) => return Err(refusal),
            Some(None) => {}
        }
        let words = text("text").ok_or("no_text")?;
        match method {
            "chat.update" => {
                let posted = self.messages.get_mut(&text("ts").unwrap()).ok_or("message_not_found")?;
                if words.chars().count() > 4_000 {
                    return Err("msg_too_long");
                }
                (posted.text, posted.blocks) = (words, body["blocks"].to_string());
                posted.edits += 1;
                Ok(text("ts").unwrap())
            }
            "chat.postMessage" => {
                let ts = format!("1503435956.{:06}", self.messages.len());
                let thread = text("thread_ts");
                let in_channel = thread.is_none() || body["reply_broadcast"] == json!(true);
                let blocks = body["blocks"].to_string();
                self.messages.insert(ts.clone(), Posted { text: words, blocks, thread, in_channel, edits: 0 });
                Ok(ts)
            }
            _ => Err("unknown_method"),
        }
    }
}

struct Scene {
    bot: SlackBot,
    slack: Arc<Mutex<Workspace>>,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        trust::write_secret(&token, "xoxb-hush");
        let slack = Workspace {
            token: "xoxb-hush".into(),
            channels: [(CHANNEL.to_owned(), None), ("C-away".to_owned(), Some("not_in_channel"))].into(),
            ..Workspace::default()
        };
        let slack = Arc::new(Mutex::new(slack));
        let answers = slack.clone();
        let server = Server::by(move |request| answers.lock().unwrap().answer(request)).await;
        let bot = SlackBot::new(&server.url("/api"), CHANNEL.into(), Secret::in_file(token).unwrap(), &via()).unwrap();
        Self { bot, slack, dir }
    }

    async fn tell(&self, message: &Message, thread: Option<&ThreadKey>) -> Result<Option<ThreadKey>, DeliveryError> {
        self.bot.deliver(Letter { id: "m1", message, thread }).await
    }

    fn posted(&self) -> Vec<Posted> {
        self.slack.lock().unwrap().messages.values().cloned().collect()
    }

    fn next(&self, answer: String) {
        self.slack.lock().unwrap().next.push(answer);
    }
}

fn of(event: EventKind, title: &str) -> Message {
    Message { event, title: title.into(), ..message() }
}

fn step(name: &str) -> Message {
    let told = StepTold { name: name.into(), outcome: "done".into() };
    Message { step: Some(told), ..of(EventKind::Step, &format!("{name} done")) }
}

#[tokio::test]
async fn an_incident_is_one_message_that_is_edited_with_its_steps_in_the_thread() {
    let scene = Scene::set().await;
    let mut key = None;
    for told in [of(EventKind::Start, "begins"), step("drain"), step("restart"), of(EventKind::End, "recovered")] {
        key = scene.tell(&told, key.as_ref()).await.unwrap();
    }
    let posted = scene.posted();
    let [head, thread @ ..] = &posted[..] else { panic!("{posted:?}") };
    assert_eq!((head.text.as_str(), head.edits, &head.thread), ("recovered", 3, &None));
    assert!(head.blocks.contains("drain: done\\nrestart: done"), "{}", head.blocks);
    let texts: Vec<&str> = thread.iter().map(|one| one.text.as_str()).collect();
    assert_eq!(texts, ["drain done", "restart done", "recovered"]);
    assert!(
        thread.iter().all(|one| one.thread.as_deref() == Some("1503435956.000000") && !one.in_channel),
        "{thread:?}"
    );

    scene.tell(&of(EventKind::Stuck, "still out of traffic"), key.as_ref()).await.unwrap();
    let last = scene.posted().pop().unwrap();
    assert!(last.in_channel && last.thread.is_some(), "an edit tells nobody: {last:?}");
}

#[tokio::test]
async fn a_message_that_somebody_deleted_is_posted_anew_and_gone_on_with() {
    let scene = Scene::set().await;
    let key = scene.tell(&of(EventKind::Start, "begins"), None).await.unwrap();
    scene.slack.lock().unwrap().messages.clear();
    let anew = scene.tell(&of(EventKind::End, "recovered"), key.as_ref()).await.unwrap();
    let posted = scene.posted();
    assert_eq!(posted.len(), 1);
    assert_eq!((posted[0].text.as_str(), &posted[0].thread), ("recovered", &None));
    scene.tell(&of(EventKind::Stuck, "out again"), anew.as_ref()).await.unwrap();
    assert_eq!(scene.posted().len(), 2);
    // What another version kept is none.
    scene.tell(&of(EventKind::End, "recovered"), Some(&ThreadKey("?".into()))).await.unwrap();
    assert_eq!(scene.posted()[2].thread, None);
}

#[tokio::test]
async fn a_thread_that_was_not_written_to_repeats_the_edit_alone() {
    let scene = Scene::set().await;
    let key = scene.tell(&of(EventKind::Start, "begins"), None).await.unwrap();
    let away = "503 Down\r\nContent-Length: 0\r\n\r\n";
    let edited = json_answer("200 OK", "", &json!({ "ok": true }));
    scene.slack.lock().unwrap().next = vec![away.into(), edited];
    let error = scene.tell(&step("drain"), key.as_ref()).await.unwrap_err();
    assert!(matches!(error, DeliveryError::Later { .. }), "{error:?}");
    scene.tell(&step("drain"), key.as_ref()).await.unwrap();
    let posted = scene.posted();
    assert_eq!(posted.len(), 2, "{posted:?}");
    assert_eq!(posted[0].blocks.matches("drain: done").count(), 1, "{}", posted[0].blocks);
}

#[tokio::test]
async fn each_refusal_says_what_to_do_and_what_can_be_mended_is_tried_again() {
    let word = |word: &str| json_answer("200 OK", "", &json!({ "ok": false, "error": word }));
    let limited =
        json_answer("429 Too Many Requests", "Retry-After: 30\r\n", &json!({ "ok": false, "error": "ratelimited" }));
    let page = "200 OK\r\nContent-Type: text/html\r\nContent-Length: 19\r\n\r\n<html>login</html>\n".to_owned();
    for (answer, later, says) in [
        (limited, Some(Some(30)), "ratelimited"),
        (word("ratelimited"), Some(None), "ratelimited"),
        (word("fatal_error"), Some(None), "fatal_error"),
        (word("channel_not_found"), Some(None), "the app is not in it"),
        (word("not_in_channel"), Some(None), "/invite"),
        (word("is_archived"), Some(None), "another `channel`"),
        (word("missing_scope"), Some(None), "chat:write"),
        (word("msg_too_long"), None, "msg_too_long"),
        (word("invalid_blocks"), None, "invalid_blocks"),
        (word("No such thing: xoxb-hush"), Some(None), "refused without a word"),
        (page, Some(None), "a proxy's page"),
    ] {
        let scene = Scene::set().await;
        scene.next(answer.clone());
        let error = scene.tell(&message(), None).await.unwrap_err();
        let found = match &error {
            DeliveryError::Later { after, .. } => Some(after.map(|after| after.as_secs())),
            DeliveryError::Refused { .. } => None,
        };
        assert_eq!(found, later, "{answer}: {error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?} {:?}", scene.bot).contains("hush"), "{error:?}");
        assert_eq!(scene.posted(), []);
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_again_from_its_file() {
    let scene = Scene::set().await;
    scene.slack.lock().unwrap().token = "xoxb-new".into();
    let error = scene.tell(&message(), None).await.unwrap_err();
    assert!(error.to_string().contains("invalid_auth") && error.to_string().contains("token_file"), "{error}");
    std::fs::write(scene.dir.path().join("token"), "xoxb-new\n").unwrap();
    scene.tell(&message(), None).await.unwrap();
    assert_eq!(scene.slack.lock().unwrap().calls.len(), 3, "refused, refused, taken");
}

#[tokio::test]
async fn long_texts_are_cut_to_what_an_edit_takes() {
    let scene = Scene::set().await;
    let long = Message { title: "<".repeat(9_000), lines: vec!["&".repeat(9_000)], ..message() };
    let key = scene.tell(&long, None).await.unwrap();
    scene.tell(&long, key.as_ref()).await.unwrap();
    assert_eq!(scene.posted()[0].edits, 1);
}
