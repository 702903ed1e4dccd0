-- What a shard's owner needs to decide what to do next. ARGV: prefix, owner token, limit.
-- Returns false when the token is not the owner's; else
-- {sequence, {closed fields}, {watermarks}, {idle}, {product, sequence, …} oldest change first, {oldest unserved sent_at, …}, live products, outbox size}.
-- `dirty_since` moves to `serving_since`: what arrives while the forecast is on its way starts a measurement of its own.
local prefix, token, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return false end
local dirty = redis.call('ZRANGE', prefix .. 'dirty', 0, limit - 1, 'WITHSCORES')
local since = {}
for i = 1, #dirty, 2 do
  local product = dirty[i]
  local new = redis.call('HGET', prefix .. 'dirty_since', product)
  local old = redis.call('HGET', prefix .. 'serving_since', product)
  if new then
    redis.call('HDEL', prefix .. 'dirty_since', product)
    if not old or tonumber(new) < tonumber(old) then
      redis.call('HSET', prefix .. 'serving_since', product, new)
      old = new
    end
  end
  since[#since + 1] = old or ''
end
return {
  redis.call('HGET', prefix .. 'offsets', 'sum') or '0',
  redis.call('HGETALL', prefix .. 'closed'),
  redis.call('HGETALL', prefix .. 'watermarks'),
  redis.call('HGETALL', prefix .. 'idle'),
  dirty,
  since,
  redis.call('ZCARD', prefix .. 'live'),
  redis.call('HLEN', prefix .. 'outbox'),
}
