-- What is done to one instance, in one go: nobody's heartbeat comes between reading an entry and removing it.
-- A shape's own functions stand before this: look, in_traffic, keep, take, put, overrides.
--
-- KEYS: the entry's key, the hash of drains, and for Dubbo that of the overrides.
-- ARGV: what to do, the instance's id in the hash of drains, the instance, our marker; for Dubbo overrides besides.
-- Answers {word, what stands in the hash of drains, score, value, the server's time in ms, Dubbo's overrides}.
--
-- A drain is kept as "marker\nscore\nremaining ms\nvalue": all that putting the entry back needs.

local doing, id, marker = ARGV[1], ARGV[2], ARGV[4]
local drain = redis.call('HGET', KEYS[2], id)
local ours = drain and string.match(drain, '^[^\n]*') == marker
local was_score, left, was = string.match(drain or '', '^[^\n]*\n([^\n]*)\n([^\n]*)\n(.*)$')
local score, value = look()
local time = redis.call('TIME')
local function answer(word)
    local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
    return { word, drain or '', score or '', value or '', now, overrides() }
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

-- Drain and hold. What a heartbeat wrote meanwhile is newer than what was kept, and is kept in its place.
if not in_traffic(score) then
    return answer('out')
end
left = redis.call('PTTL', KEYS[1])
redis.call('HSET', KEYS[2], id, marker .. '\n' .. score .. '\n' .. left .. '\n' .. keep(value, was))
take()
return answer('taken')
