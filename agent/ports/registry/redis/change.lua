-- What is done to one instance, in one go: nobody's heartbeat comes between reading an entry and removing it.
-- A shape's own functions stand before this: look, in_traffic, keep, take, put, overrides.
--
-- KEYS: the entry's key, for Dubbo that of the overrides; the hash of drains.
-- ARGV: what to do, the instance's id in the hash of drains, the instance, our marker; for Dubbo more.
-- Answers {word, what stands in the hash of drains, score, value, the server's time in ms, Dubbo's overrides, the line of
-- masters that the server stands in: another one may have forgotten what this one was told}.
--
-- A drain is kept as "marker\nscore\nremaining ms\nvalue": all that putting the entry back needs.

local doing, id, marker = ARGV[1], ARGV[2], ARGV[4]
local drain = redis.call('HGET', KEYS[2], id)
local ours = drain and string.match(drain, '^[^\n]*') == marker
local was_score, left, was = string.match(drain or '', '^[^\n]*\n([^\n]*)\n([^\n]*)\n(.*)$')
local score, value = look()
local time = redis.call('TIME')
local lineage = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
local function answer(word)
    local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
    return { word, drain or '', score or '', value or '', now, overrides(), lineage }
end

if doing == 'look' then
    return answer(score and 'there' or 'gone')
end
if drain and not ours then
    return answer('others')
end
if not drain and not (doing == 'drain' and score) then
    return answer('gone')
end

if doing == 'restore' then
    redis.call('HDEL', KEYS[2], id)
    return answer(put(was_score, tonumber(left), was) and 'put back' or 'newer')
end

-- Drain, hold and prove. What a heartbeat wrote meanwhile is newer than what was kept, and is kept in its place.
if not in_traffic(score) then
    -- A write that changes nothing: a server that takes none would not take the restore.
    if doing == 'prove' then
        redis.call('HSET', KEYS[2], id, drain)
    end
    return answer('out')
end
left = redis.call('PTTL', KEYS[1])
redis.call('HSET', KEYS[2], id, marker .. '\n' .. score .. '\n' .. left .. '\n' .. keep(value, was))
take()
return answer('taken')
