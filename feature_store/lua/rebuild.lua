-- States that were rebuilt because those that were stored are another model's. ARGV: prefix, owner token, sequence that is known, then product, expected header of
-- its features, state, … A product whose features are not those that were read keeps what it has; the others are changed: their forecasts are another model's.
-- Returns {1}; {0} when the token is not the owner's; {-1, sequence} when that is less than known.
local prefix, token, known = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('GET', prefix .. 'owner') ~= token then return {0} end
local sequence = tonumber(redis.call('HGET', prefix .. 'offsets', 'sum') or 0)
if sequence < known then return {-1, sequence} end
for i = 4, #ARGV, 3 do
  local name = ARGV[i]
  local both = redis.call('GET', prefix .. 'state:' .. name) or ''
  if both:sub(1, 16) == ARGV[i + 1] then
    local features = both:sub(1, struct.unpack('<I4', both, #both - 3))  -- see commit.lua
    redis.call('SET', prefix .. 'state:' .. name, features .. ARGV[i + 2] .. both:sub(-4))
    redis.call('ZADD', prefix .. 'dirty', sequence, name)
  end
end
return {1}
