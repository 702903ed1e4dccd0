-- Forget a product that has been silent for too long. ARGV: prefix, owner token, product, its last event time as read, then outbox id, message, …
-- Returns 'evicted'; 'kept' when the product was heard of meanwhile; 'lost' when the token is not the owner's.
local prefix, token, product, last_event = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('GET', prefix .. 'owner') ~= token then return 'lost' end
if tonumber(redis.call('ZSCORE', prefix .. 'live', product) or -1) ~= tonumber(last_event) then return 'kept' end
for _, kind in ipairs({'tiles:', 'steps:', 'running:', 'state:', 'scores:'}) do redis.call('UNLINK', prefix .. kind .. product) end
local facts = redis.call('HGET', prefix .. 'facts', product)
if facts then -- they outlive a silence, unless the shop has withdrawn them
  local versions = cmsgpack.unpack(facts)[2]
  local _, price, lead, stock, category, promotions = unpack(versions[#versions])
  if price < 0 and lead == 0 and stock < 0 and category == '' and #promotions == 0 then redis.call('HDEL', prefix .. 'facts', product) end
end
redis.call('ZREM', prefix .. 'live', product)
redis.call('ZREM', prefix .. 'dirty', product)
redis.call('HDEL', prefix .. 'dirty_since', product)
redis.call('HDEL', prefix .. 'serving_since', product)
for i = 5, #ARGV, 2 do redis.call('HSET', prefix .. 'outbox', ARGV[i], ARGV[i + 1]) end
return 'evicted'
