//! The shapes in which frameworks keep their instances in Redis: what is looked at, what is taken, what is put back.

use crate::model::RedisProfile;

/// The hash of the drains that stand: an instance's id to `marker\nscore\nremaining ms\nvalue`.
pub(super) const DRAINS: &str = "unwait:drained";

const CHANGE: &str = include_str!("change.lua");

/// A key that its last entry took along is put back with the time that it had left.
const PUT_INTO: &str = "
local function put_into(write)
    return function(score, left, value)
        local was_there = redis.call('EXISTS', KEYS[1]) == 1
        if write(score, value) == 0 then return false end
        if not was_there and left > 0 then redis.call('PEXPIRE', KEYS[1], left) end
        return true
    end
end
local function in_traffic(score) return score end
local function overridden() return '' end
";

const SET: &str = "
local function look() if redis.call('SISMEMBER', KEYS[1], ARGV[3]) == 1 then return '', '' end end
local function take() redis.call('SREM', KEYS[1], ARGV[3]) end
local put = put_into(function() return redis.call('SADD', KEYS[1], ARGV[3]) end)
";

const SORTED_SET: &str = "
local function look()
    local score = redis.call('ZSCORE', KEYS[1], ARGV[3])
    if score then return score, '' end
end
local function take() redis.call('ZREM', KEYS[1], ARGV[3]) end
local put = put_into(function(score) return redis.call('ZADD', KEYS[1], 'NX', score, ARGV[3]) end)
";

const HASH: &str = "
local function look()
    local value = redis.call('HGET', KEYS[1], ARGV[3])
    if value then return '', value end
end
local function take() redis.call('HDEL', KEYS[1], ARGV[3]) end
local put = put_into(function(_, value) return redis.call('HSETNX', KEYS[1], ARGV[3], value) end)
";

/// By DUMP and RESTORE: whatever type the value has.
const TTL_KEY: &str = "
local function in_traffic(score) return score end
local function overridden() return '' end
local function look()
    local value = redis.call('DUMP', KEYS[1])
    if value then return '', value end
end
local function take() redis.call('DEL', KEYS[1]) end
local function put(_, left, value)
    if redis.call('EXISTS', KEYS[1]) == 1 then return false end
    redis.call('RESTORE', KEYS[1], math.max(left, 0), value)
    return true
end
";

/// The provider stays registered; an override that Dubbo's consumers follow disables it.
const DUBBO: &str = "
local function address(url)
    return (string.gsub(string.match(url, '^%a[%w+.-]*://([^/?]*)') or '', '^.*@', ''))
end
local function look()
    for _, url in ipairs(redis.call('HKEYS', KEYS[1])) do
        if address(url) == ARGV[3] then return redis.call('HGET', KEYS[1], url), url end
    end
end
local function stands() return redis.call('HEXISTS', KEYS[3], ARGV[5]) == 1 end
local function in_traffic(score) return score and not stands() end
local function take()
    redis.call('HSET', KEYS[3], ARGV[5], '0')
    redis.call('PUBLISH', KEYS[3], 'register')
end
local function put()
    redis.call('HDEL', KEYS[3], ARGV[5])
    redis.call('PUBLISH', KEYS[3], 'unregister')
    return true
end
local function overridden()
    for _, url in ipairs(redis.call('HKEYS', KEYS[3])) do
        local whom = address(url)
        local whose = whom == ARGV[3] or string.match(whom, '^0%.0%.0%.0')
        local off = string.find(url, 'disabled=true', 1, true) and not string.find(url, 'enabled=false', 1, true)
        if whose and off then return url end
    end
    return ''
end
";

/// `change.lua` with the shape's own functions before it.
pub(super) fn script(profile: RedisProfile) -> String {
    match profile {
        RedisProfile::Set => format!("{PUT_INTO}{SET}{CHANGE}"),
        RedisProfile::SortedSet { .. } => format!("{PUT_INTO}{SORTED_SET}{CHANGE}"),
        RedisProfile::Hash => format!("{PUT_INTO}{HASH}{CHANGE}"),
        RedisProfile::TtlKey => format!("{TTL_KEY}{CHANGE}"),
        RedisProfile::Dubbo => format!("{DUBBO}{CHANGE}"),
    }
}

const HEARTBEAT: &str = "a heartbeat that writes the entry again puts the service into traffic until the agent takes it \
                         out again (hold_every), and for good while no agent runs";
const NO_WAY_TO_TELL: &str = "a service that deregisters while it is drained is put back all the same";
const NO_HEALTH: &str = "the registry tells no health: min_healthy counts every other instance that is registered";
const FAILOVER: &str = "a failover to a replica may lose the last writes: a drain, or our note of what to put back; \
                        Redis Cluster is not spoken to";

pub(super) fn caveats(profile: RedisProfile) -> &'static [&'static str] {
    match profile {
        RedisProfile::Set | RedisProfile::Hash => &[HEARTBEAT, NO_WAY_TO_TELL, NO_HEALTH, FAILOVER],
        RedisProfile::SortedSet { .. } | RedisProfile::TtlKey => &[HEARTBEAT, NO_WAY_TO_TELL, FAILOVER],
        RedisProfile::Dubbo => {
            &["consumers that follow no overrides of Dubbo's (configurators) still call a drained provider", FAILOVER]
        }
    }
}
