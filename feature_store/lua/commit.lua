-- Store what the forecaster computed for some products of a shard, with the messages that follow from it: all of it, or nothing.
-- ARGV: prefix, owner token, call (msgpack), then blobs. The call names the products: {name, first and last step to close (last < first: none), dirty since
-- or false}. Blobs, product after product: expected headers of features and scores, then features and state where a step closes, scores; last the outbox
-- messages. (cmsgpack knows no binary strings, so those are arguments.)
-- Returns {'committed', sequence} | {'lost'} (another owner) | {'rolled_back', sequence} (less than what the decision knew is counted) | {'stale', product, …} (their records are not those that were read; nothing is written).
local prefix, token, call = ARGV[1], ARGV[2], cmsgpack.unpack(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return {'lost'} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < call.known then return {'rolled_back', sequence} end

-- read and check
local stale, blob = {}, 4
for _, product in ipairs(call.products) do
  local name, first, last = product[1], product[2], product[3]
  if redis.call('GETRANGE', prefix .. 'features:' .. name, 0, 15) ~= ARGV[blob] or redis.call('GETRANGE', prefix .. 'scores:' .. name, 0, 15) ~= ARGV[blob + 1] then
    stale[#stale + 1] = name
  end
  blob = blob + 3 + (first <= last and 2 or 0)
end
if #stale > 0 then return {'stale', unpack(stale)} end

-- write
local per_step = call.tiles_per_step
local function tiles_of(step)
  local fields = {}
  for i = 0, per_step - 1 do fields[i + 1] = step * per_step + i end
  return fields
end
local function plus(sums, packed)
  local tile = cmsgpack.unpack(packed)
  if not sums then return tile end
  for i = 1, #tile do sums[i] = sums[i] + tile[i] end
  return sums
end
-- A late event may have come after the product's first tile was looked for: what lies before its first step is rolled up too, unseen by its state.
local function roll_up_before(first, tiles, steps)
  local earlier, fields = {}, redis.call('HGETALL', tiles)
  for i = 1, #fields, 2 do
    local step = math.floor(tonumber(fields[i]) / per_step)
    if step < first then
      earlier[step] = plus(earlier[step], fields[i + 1])
      if step <= first - call.keep_tiles then redis.call('HDEL', tiles, fields[i]) end
    end
  end
  for step, sums in pairs(earlier) do redis.call('HSET', steps, step, cmsgpack.pack(sums)) end
end
blob = 4
for _, product in ipairs(call.products) do
  local name, first, last, since = unpack(product)
  local tiles, steps = prefix .. 'tiles:' .. name, prefix .. 'steps:' .. name
  if ARGV[blob] == '' and first <= last then roll_up_before(first, tiles, steps) end
  blob = blob + 2
  for step = first, last do -- roll up, then trim what the new step pushes out
    local sums
    for _, packed in ipairs(redis.call('HMGET', tiles, unpack(tiles_of(step)))) do
      if packed then sums = plus(sums, packed) end
    end
    if sums then redis.call('HSET', steps, step, cmsgpack.pack(sums)) end
    redis.call('HDEL', steps, step - call.keep_steps)
    redis.call('HDEL', tiles, unpack(tiles_of(step - call.keep_tiles)))
  end
  if first <= last then
    redis.call('SET', prefix .. 'features:' .. name, ARGV[blob])
    redis.call('SET', prefix .. 'state:' .. name, ARGV[blob + 1])
    blob = blob + 2
  end
  redis.call('SET', prefix .. 'scores:' .. name, ARGV[blob])
  blob = blob + 1
  if since then
    redis.call('ZADD', prefix .. 'dirty', sequence, name)
    redis.call('HSETNX', prefix .. 'dirty_since', name, since)
  end
end
for _, id in ipairs(call.outbox) do
  redis.call('HSET', prefix .. 'outbox', id, ARGV[blob])
  blob = blob + 1
end
return {'committed', sequence}
