-- What was sent and confirmed is no longer owed. ARGV: prefix, owner token, msgpack {products {name, sequence, …}, outbox {id, …}}.
-- A product that changed since it was gathered stays dirty; of one that did not, nothing waits any more, whoever marked it. Returns 1, or 0 when the token is not the owner's.
local prefix, token, sent = ARGV[1], ARGV[2], cmsgpack.unpack(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return 0 end
for i = 1, #sent.products, 2 do
  local product, sequence = sent.products[i], sent.products[i + 1]
  if tonumber(redis.call('ZSCORE', prefix .. 'dirty', product) or -1) == sequence then
    redis.call('ZREM', prefix .. 'dirty', product)
    redis.call('HDEL', prefix .. 'dirty_since', product)
  end
  redis.call('HDEL', prefix .. 'serving_since', product)
end
for _, id in ipairs(sent.outbox) do redis.call('HDEL', prefix .. 'outbox', id) end
return 1
