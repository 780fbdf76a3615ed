//! The shapes in which frameworks keep their instances in Redis: what is looked at, what is taken, what is put back.

use crate::model::RedisProfile;

/// The hash of the drains that stand: an instance's id to `marker\nscore\nremaining ms\nvalue`. In a Cluster one beside
/// each key, `unwait:drained:{KEY}`, so that a script may have both.
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
local function keep(value) return value end
local function overrides() return '' end
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

/// The milliseconds that a field of its own time to live has left (Redis 7.4, Valkey 9) stand in the score's place.
const HASH: &str = "
local function look()
    local value = redis.call('HGET', KEYS[1], ARGV[3])
    if not value then return end
    local left = redis.pcall('HPTTL', KEYS[1], 'FIELDS', 1, ARGV[3])
    if left.err and string.find(left.err, 'Unknown', 1, true) then return '', value end
    left = left.err and redis.call('HPTTL', KEYS[1], 'FIELDS', 1, ARGV[3]) or left
    return left[1] > 0 and string.format('%d', left[1]) or '', value
end
local function take() redis.call('HDEL', KEYS[1], ARGV[3]) end
local put = put_into(function(left, value)
    if redis.call('HSETNX', KEYS[1], ARGV[3], value) == 0 then return 0 end
    if left ~= '' then redis.call('HPEXPIRE', KEYS[1], left, 'FIELDS', 1, ARGV[3]) end
    return 1
end)
";

/// By DUMP and RESTORE: whatever type the value has.
const TTL_KEY: &str = "
local function in_traffic(score) return score end
local function keep(value) return value end
local function overrides() return '' end
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

/// The provider stays registered; overrides that Dubbo's consumers follow disable all that it offers. They alone are written
/// here: in a Cluster the provider's key lies elsewhere, and is read before. `ARGV` has the override that former versions
/// wrote, without group and version; when the provider's registration ends, and its URLs, as they were read; and from the
/// eighth on the overrides that are wanted now. Kept are those that were put there; a drain of a former version kept the
/// provider's URL.
const DUBBO: &str = "
local function look()
    if ARGV[7] ~= '' then return ARGV[6], ARGV[7] end
end
local function stand()
    for i = 8, #ARGV do
        if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then return false end
    end
    return true
end
local function in_traffic(ends) return ends and not stand() end
local function put_there(was)
    if not string.find(was, 'override://', 1, true) then return { ARGV[5] } end
    local urls = {}
    for url in string.gmatch(was, '[^\\n]+') do table.insert(urls, url) end
    return urls
end
local function keep(_, was)
    local urls = was and put_there(was) or {}
    local known = {}
    for _, url in ipairs(urls) do known[url] = true end
    for i = 8, #ARGV do
        if not known[ARGV[i]] then table.insert(urls, ARGV[i]) end
    end
    return table.concat(urls, '\\n')
end
local function take()
    for i = 8, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], '0') end
    redis.call('PUBLISH', KEYS[1], 'register')
end
local function put(_, _, was)
    for _, url in ipairs(put_there(was)) do redis.call('HDEL', KEYS[1], url) end
    redis.call('PUBLISH', KEYS[1], 'unregister')
    return true
end
local function overrides() return table.concat(redis.call('HKEYS', KEYS[1]), '\\n') end
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

const HEARTBEAT: &str = "a heartbeat that writes the entry again puts the service into traffic until the agent drains \
                         it again (every `hold_every`); without a running agent it stays in traffic";
const NO_WAY_TO_TELL: &str = "a service that deregisters while it is drained is registered again by the restore";
const NO_HEALTH: &str = "the registry has no health state: min_healthy counts every other instance that is registered";
const FAILOVER: &str = "a failover to a replica may lose the last writes: a running agent repeats a lost drain, and \
                        for 1 h a lost restore, within 10 s";

const NO_APPLICATION: &str = "consumers that find a provider by its application ignore the override: a provider with \
                              service-name-mapping=true in its URL, as Dubbo 3 writes it, is not drained";

pub(super) fn caveats(profile: RedisProfile) -> &'static [&'static str] {
    match profile {
        RedisProfile::Set | RedisProfile::Hash => &[HEARTBEAT, NO_WAY_TO_TELL, NO_HEALTH, FAILOVER],
        RedisProfile::SortedSet { .. } | RedisProfile::TtlKey => &[HEARTBEAT, NO_WAY_TO_TELL, FAILOVER],
        RedisProfile::Dubbo => &[NO_APPLICATION, FAILOVER],
    }
}
