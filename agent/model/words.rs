//! The words of messages in the languages that the host's file may ask for. English is written where a message is made; here stands
//! every other language, as tables that the compiler keeps whole.
//!
//! What others said (a server's error, a person's reason) and what a person copies (commands, names, numbers) stays as it is.

use serde::{Deserialize, Serialize};

use super::incident::Outcome;
use super::message::{EventKind, Message};
use super::reason::Reason;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    #[default]
    En,
    Zh,
}

/// What stands before a value below a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    Host,
    Service,
    Policy,
    Incident,
    Outcome,
    Reason,
    DryRun,
}

impl Label {
    pub fn says(self, language: Language) -> &'static str {
        match (self, language) {
            (Self::Host, Language::En) => "host",
            (Self::Service, Language::En) => "service",
            (Self::Policy, Language::En) => "policy",
            (Self::Incident, Language::En) => "incident",
            (Self::Outcome, Language::En) => "outcome",
            (Self::Reason, Language::En) => "reason",
            (Self::DryRun, Language::En) => "[dry-run]",
            (Self::Host, Language::Zh) => "主机",
            (Self::Service, Language::Zh) => "服务",
            (Self::Policy, Language::Zh) => "策略",
            (Self::Incident, Language::Zh) => "事件",
            (Self::Outcome, Language::Zh) => "结果",
            (Self::Reason, Language::Zh) => "原因",
            (Self::DryRun, Language::Zh) => "【演练】",
        }
    }
}

pub fn outcome(outcome: Outcome, language: Language) -> &'static str {
    match (outcome, language) {
        (outcome, Language::En) => outcome.into(),
        (Outcome::Completed, Language::Zh) => "处置完成",
        (Outcome::Unwound, Language::Zh) => "已回退",
        (Outcome::Stuck, Language::Zh) => "需要人工介入",
    }
}

/// The message as it is told in this language.
pub fn spoken(message: Message, language: Language) -> Message {
    match language {
        Language::En => message,
        Language::Zh => Message { title: title(&message), lines: lines(&message), language, ..message },
    }
}

fn title(message: &Message) -> String {
    let who = message.service.as_ref().map_or("unwait", |service| service.as_str());
    let reason = || message.reason.map_or_else(String::new, |reason| format!("：{}", brief(reason)));
    let what = match (message.event, message.outcome) {
        (EventKind::Breach, _) => "触发策略".to_owned(),
        (EventKind::Held, _) => format!("暂不处置{}", reason()),
        (EventKind::Approval, _) => "等待审批".to_owned(),
        (EventKind::Start, _) if message.dry_run => "将会开始处置".to_owned(),
        (EventKind::Start, _) => "开始处置".to_owned(),
        (EventKind::Step, _) => message
            .step
            .as_ref()
            .map_or_else(|| "步骤".to_owned(), |told| format!("步骤 {} {}", told.name, step(&told.outcome))),
        (EventKind::Recovered, _) => "已恢复".to_owned(),
        (EventKind::Operator, _) => "人工操作".to_owned(),
        (EventKind::Review, _) => "演练回顾".to_owned(),
        (EventKind::Test, _) => "测试消息".to_owned(),
        (EventKind::End, Some(Outcome::Completed)) if message.dry_run => "演练：每一步都会执行".to_owned(),
        (EventKind::End | EventKind::Stuck, Some(ended)) => format!("{}{}", outcome(ended, Language::Zh), reason()),
        (EventKind::End, None) => "处置结束".to_owned(),
        (EventKind::Stuck, None) => format!("需要人工介入{}", reason()),
    };
    let policy = match (message.event, &message.policy) {
        (EventKind::Breach | EventKind::Recovered | EventKind::Start | EventKind::Review, Some(policy)) => {
            format!(" {policy}")
        }
        _ => String::new(),
    };
    format!("{who} @ {}：{what}{policy}", message.host)
}

/// The lines: what is ours in Chinese, and what the title said in English first, where the Chinese title says less.
fn lines(message: &Message) -> Vec<String> {
    let says_less = match message.event {
        EventKind::Stuck => message.outcome.is_none(),
        EventKind::Operator | EventKind::Review | EventKind::Recovered | EventKind::Test => true,
        // Of several services at once.
        _ => message.service.is_none(),
    };
    let reason = message.reason.map(|reason| (reason.says(), sentence(reason)));
    let line = |line: &String| match reason {
        Some((english, chinese)) if line == english => chinese.to_owned(),
        _ if line == "nothing was changed" => "未做任何变更".to_owned(),
        _ => ours(line),
    };
    says_less.then(|| message.title.clone()).into_iter().chain(message.lines.iter().map(line)).collect()
}

/// The beginnings of lines that are ours.
const BEGINNINGS: [(&str, &str); 6] = [
    ("look:", "查看："),
    ("decide:", "处理："),
    ("steps:", "步骤："),
    ("why:", "原因："),
    ("free it now:", "立即释放："),
    ("asked for by ", "请求人："),
];

fn ours(line: &str) -> String {
    let begins = BEGINNINGS.iter().find_map(|(english, chinese)| Some((line.strip_prefix(english)?, chinese)));
    begins.map_or_else(|| line.to_owned(), |(rest, chinese)| format!("{chinese}{rest}"))
}

/// How a step went; the driver's words are few, and an unknown one stays as it is.
fn step(outcome: &str) -> &str {
    match outcome {
        "done" => "完成",
        "failed" => "失败",
        "undone" => "已撤销",
        "undo_refused" => "无法撤销",
        "not_helped" => "无效果",
        "interrupted" => "中断",
        "made" => "已转人工",
        "said" => "通知",
        "given" => "已判定",
        "left" => "暂停，待 agent 重启后继续",
        other => other,
    }
}

/// For a title.
fn brief(reason: Reason) -> &'static str {
    sentence(reason).split(['，', '；', '：']).next().unwrap_or_default()
}

/// Reason::says, in Chinese.
pub fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::NoPolicy => "没有策略选中该服务",
        Reason::Quiet => "策略条件不成立",
        Reason::NotForLong => "策略条件成立的时间还不够 `for`",
        Reason::SignalUnknown => "策略条件中的某个指标当前无法测量；未知的指标不算触发",
        Reason::ObserveMode => "策略为 observe 模式：只告警，不处置",
        Reason::DryRun => "策略为 dry-run 模式：只说明会做什么，不执行",
        Reason::ObserveOnly => "agent 无法写入状态目录，不会开始任何处置；见 `unwait status`",
        Reason::ModeAtMost => "主机配置不允许任何策略或人在此处置；见 agent.yaml 的 `mode_at_most`",
        Reason::Paused => "处置已暂停；`unwait resume` 恢复",
        Reason::WarmUp => "agent 刚启动，`warm_up` 之后才会处置",
        Reason::Latched => "之前的事件需要人工介入，服务已锁定；用 `unwait resolve SERVICE` 解锁",
        Reason::RungsSpent => "策略的所有 runbook 都已试过，均无效果；需要人工排查该服务",
        Reason::Protected => "服务受保护；策略必须写出完整名称才能处置",
        Reason::Silenced => "服务或主机已被静默；`unwait silence --end` 结束静默",
        Reason::DenyWindow => "策略的时间窗口禁止此时处置",
        Reason::OutsideWindows => "不在策略允许处置的时间窗口内",
        Reason::NotActive => "服务未运行",
        Reason::Unstable => "服务正在启动、停止，或有任务进行中",
        Reason::Frozen => "服务被冻结(`systemctl freeze`、`docker pause`)，重启会失败或使其解冻",
        Reason::RecentlyRestarted => "服务刚重启过，等待其稳定",
        Reason::WouldNotStart => "服务停止后将无法再启动；请先修复",
        Reason::OutOfTraffic => "服务已被他人摘流",
        Reason::ProbeUnusable => "健康检查不可用，重启后服务将无法恢复流量；请修复健康检查",
        Reason::HeldElsewhere => "泄漏的连接由其他进程持有，重启该服务无法释放",
        Reason::Cooldown => "距上一次事件结束时间太短(冷却中)",
        Reason::ServiceBudget => "该服务的处置次数已用完",
        Reason::HostBudget => "本机的处置次数已用完",
        Reason::SagaRunning => "已有事件在处置中",
        Reason::Jitter => "随机等待中，避免同一集群的主机同时处置",
        Reason::CommonCause => "触发的实例过多，原因多半不在本机；请检查它们共同的依赖",
        Reason::NeedsApproval => "策略要求人工审批，尚未发出请求",
        Reason::AwaitingApproval => "已请求人工审批；见 `unwait status`",
        Reason::ApprovalDenied => "处置计划刚被拒绝",
        Reason::ApprovalExpired => "审批超时；稍后会再次请求",
        Reason::NoRegistry => "服务没有绑定注册中心，无法得知其他健康实例的数量",
        Reason::TooFewHealthy => "其他健康实例太少",
        Reason::SlotTaken => "集群中该服务没有空闲的处置名额",
        Reason::GuardFailed => "某项检查无法完成；出错按拒绝处理",
        Reason::NotActionable => "服务缺少 runbook 所需的条件；`unwait check` 会指出",
        Reason::EvidenceNotKept => "现场无法保存，因此未做任何变更",
        Reason::JournalNotWritable => "日志无法写入，因此不再做任何变更",
        Reason::DrainFailed => "摘流失败",
        Reason::DrainIneffective => {
            "注册中心已摘流，但客户端仍在建立新连接，因此未重启；请查明原因，然后执行 `unwait rearm POLICY`"
        }
        Reason::DrainTimedOut => "等待连接排空超时，仍有连接",
        Reason::StepFailed => "某一步骤失败",
        Reason::ConditionCleared => "变更前条件已不再成立",
        Reason::NothingToDo => "步骤没有可做的事，因此未做任何变更",
        Reason::MeasurementFailed => "变更前无法重新测量指标",
        Reason::IncarnationChanged => "期间服务已被他人重启",
        Reason::GuardRefused => "变更前的检查未通过",
        Reason::ShuttingDown => "在不可回退点之前，agent 被要求停止",
        Reason::AgentRestarted => "在不可回退点之前，agent 异常退出",
        Reason::RestartFailed => "重启失败",
        Reason::RestartUnknown => "重启结果未知",
        Reason::StartLimitHit => "达到 systemd 启动次数限制；见 `systemctl status`，然后 `systemctl reset-failed`",
        Reason::Unhealthy => "处置后服务未恢复健康",
        Reason::UnhealthyAfterRestore => "恢复流量后服务再次不健康",
        Reason::GoneWhileDrained => "摘流期间服务被重启或退出；保持摘流",
        Reason::UnhealthierThanDrained => "服务比摘流时更不健康；保持摘流",
        Reason::RecordChanged => "摘流之后注册中心的记录被他人修改；记录保持原样",
        Reason::OrphanedMarker => {
            "注册中心有本机的摘流标记，但没有对应的事件，无人会恢复：需要人工执行 `unwait resolve SERVICE --leave` 并在注册中心处理"
        }
        Reason::JournalUnreadable => "未结束事件的日志无法读取，处置在此停止：需要人工执行 `unwait resolve SERVICE`",
        Reason::ReloadFailed => "reload 失败",
        Reason::RecycleFailed => "部分 worker 未退出，或 master 未启动同样数量的新 worker",
        Reason::CloseFailed => "连接无法关闭",
        Reason::NotAsBefore => "已开始一个无法撤销的动作，服务状态与之前不同",
        Reason::NeedsPerson => "runbook 将其余部分交由人工",
        Reason::BreakerOpen => "该策略之前的处置无效果，在 `unwait rearm` 之前只演练",
        Reason::Recovered => "每一步都已完成，问题已恢复",
        Reason::NotHelped => "每一步都已完成，但问题依旧",
        Reason::Unverified => "每一步都已完成，但指标无法确认是否有效",
        Reason::EvidenceKept => "现场已保存；runbook 不做任何变更",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;
    use crate::model::message::StepTold;

    fn message(event: EventKind) -> Message {
        Message {
            service: Some(ServiceName::parse("rpc-order.service").unwrap()),
            policy: Some("close-wait-leak".into()),
            ..Message::new(event, "bj1-03", "2026-11-22T18:43:29Z".parse().unwrap(), "said in English")
        }
    }

    #[test]
    fn a_message_says_in_chinese_what_happened_and_why() {
        let ended = |outcome, reason: Reason| Message {
            outcome: Some(outcome),
            reason: Some(reason),
            lines: vec![
                reason.says().into(),
                "503 Service Unavailable".into(),
                "look:   unwait show 20261122T184329Z".into(),
            ],
            ..message(EventKind::End)
        };
        for (said, title, lines) in [
            (message(EventKind::Breach), "rpc-order.service @ bj1-03：触发策略 close-wait-leak", vec![]),
            (
                ended(Outcome::Completed, Reason::Recovered),
                "rpc-order.service @ bj1-03：处置完成：每一步都已完成",
                vec!["每一步都已完成，问题已恢复", "503 Service Unavailable", "查看：   unwait show 20261122T184329Z"],
            ),
            (
                ended(Outcome::Stuck, Reason::RestartFailed),
                "rpc-order.service @ bj1-03：需要人工介入：重启失败",
                vec!["重启失败", "503 Service Unavailable", "查看：   unwait show 20261122T184329Z"],
            ),
            (
                Message { reason: Some(Reason::Paused), ..message(EventKind::Held) },
                "rpc-order.service @ bj1-03：暂不处置：处置已暂停",
                vec![],
            ),
            (
                Message {
                    step: Some(StepTold { name: "drain".into(), outcome: "done".into() }),
                    ..message(EventKind::Step)
                },
                "rpc-order.service @ bj1-03：步骤 drain 完成",
                vec![],
            ),
            // What only the English title says is not lost.
            (
                Message { service: None, policy: None, ..message(EventKind::Stuck) },
                "unwait @ bj1-03：需要人工介入",
                vec!["said in English"],
            ),
        ] {
            let spoken = spoken(said, Language::Zh);
            assert_eq!((spoken.title.as_str(), spoken.lines), (title, lines.into_iter().map(String::from).collect()));
        }
        assert_eq!(spoken(message(EventKind::End), Language::En), message(EventKind::End));
    }
}
