-- One request of a kind, with a random origin and host each time, so that no cache of results helps.
-- Arguments: KIND ("preflight", "denied", "get", "64k" or "post"), "exact" or "wildcard", origins, tenants, and a salt. Each run
-- against the same server has another salt, which makes the subdomains new.
local kind, pattern, origins, tenants, salt
local count, body = 0, string.rep("x", 1024)

function init(args)
  kind, pattern, origins, tenants, salt = args[1], args[2], tonumber(args[3]), tonumber(args[4]), args[5]
  math.randomseed(tonumber(salt))
end

local function origin()
  count = count + 1
  local name = "o" .. math.random(0, origins - 1) .. ".example"
  if kind == "denied" then return "https://s" .. salt .. "-" .. count .. ".unlisted.example" end
  if pattern == "wildcard" then return "https://r" .. salt .. "-" .. count .. "." .. name end
  return "https://" .. name
end

-- Built by hand, because wrk.format costs more than a request.
function request()
  local from = "Host: api" .. math.random(0, tenants - 1) .. ".test\r\nOrigin: " .. origin() ..
    "\r\nAccept: */*\r\nAccept-Language: en\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
  if kind == "get" then return "GET /orders HTTP/1.1\r\n" .. from .. "\r\n" end
  if kind == "64k" then return "GET /64k HTTP/1.1\r\n" .. from .. "\r\n" end
  if kind == "post" then return "POST /orders HTTP/1.1\r\n" .. from .. "Content-Length: 1024\r\n\r\n" .. body end
  return "OPTIONS /orders HTTP/1.1\r\n" .. from ..
    "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization,content-type\r\n\r\n"
end

function done(summary)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
