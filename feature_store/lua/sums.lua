-- What the forecasts of a shard's products add up to after a step, and what was sold in its steps. Written once; what stands there stays.
-- ARGV: prefix, owner token, step, sequence that is known, whether a day ends with the step (1) or not (0), the sums, those of a day's end as they are kept
-- for longer, the oldest step of which the latter are kept. Returns {1}; {0} when the token is not the owner's; {-1, sequence} when that is less than known.
-- `levels` holds, of the newest steps, `newest` (msgpack: {step, …}, rising) and `at:<step>`; of days' ends `origin:<step>`.
local prefix, token, step, known = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', prefix .. 'owner') ~= token then return {0} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < known then return {-1, sequence} end
local levels = prefix .. 'levels'
local packed = redis.call('HGET', levels, 'newest')
local newest = packed and cmsgpack.unpack(packed) or {}
if newest[#newest] and newest[#newest] >= step then return {1} end
newest[#newest + 1] = step
if #newest > 3 then redis.call('HDEL', levels, 'at:' .. table.remove(newest, 1)) end -- so far may shards be apart and still have a step in common
redis.call('HSET', levels, 'newest', cmsgpack.pack(newest), 'at:' .. step, ARGV[6])
if ARGV[5] == '1' then
  for _, field in ipairs(redis.call('HKEYS', levels)) do
    local origin = field:match('^origin:(-?%d+)$')
    if origin and tonumber(origin) < tonumber(ARGV[8]) then redis.call('HDEL', levels, field) end
  end
  redis.call('HSET', levels, 'origin:' .. step, ARGV[7])
end
return {1}
