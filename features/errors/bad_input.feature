Feature: Bad input
  Whatever a client sends, the answer is the one envelope, with a message that says what to do, and the daemon keeps serving. For every error the
  steps check the envelope, its status and its correlation id, and that it shows nothing of the inside of the program.

  Background:
    Given the shared daemon

  @OC-CTRL-2030 @LO-102
  Scenario Outline: A body that does not fit the contract
    When I post to "/v1/tasks"
      """
      <body>
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "<message>"
    And the daemon still serves

    Examples: malformed JSON
      | body                                  | message                  |
      | {"model_ref": "haiku", "prompt": "x"  | not valid JSON           |
      | {"model_ref": "haiku" "prompt": "x"}  | not valid JSON at byte   |
      | {"model_ref": "haiku"} {}             | not valid JSON           |
      | nonsense                              | not valid JSON           |
      | []                                    | must be an object        |
      | null                                  | must be an object        |
      | "text"                                | must be an object        |
      | 7                                     | must be an object        |

    Examples: unknown fields, with the nearest known one
      | body                                                              | message                                                   |
      | {"model_ref": "haiku", "promt": "x"}                              | unknown field "promt": did you mean "prompt"?             |
      | {"model_ref": "haiku", "prompt": "x", "max_token": 5}             | unknown field "max_token": did you mean "max_tokens"?     |
      | {"model_ref": "haiku", "prompt": "x", "params": {"temprature": 1}} | "params.temprature": did you mean "temperature"?          |
      | {"model_ref": "haiku", "prompt": "x", "zzzzzz": 1}                | unknown field "zzzzzz"                                    |

    Examples: missing fields
      | body                                                                | message      |
      | {}                                                                  | model_ref    |
      | {"prompt": "x"}                                                     | model_ref    |
      | {"model_ref": "haiku"}                                              | prompt       |
      | {"model_ref": "haiku", "prompt": ""}                                | prompt       |
      | {"model_ref": "haiku", "prompt": "x", "messages": [{"role": "user", "content": "x"}]} | messages |
      | {"model_ref": "haiku", "messages": []}                              | messages     |
      | {"model_ref": "haiku", "messages": [{"role": "user"}]}              | content      |
      | {"model_ref": "haiku", "prompt": "x", "placement": {"mode": "pin"}} | pool_id      |

    Examples: wrong types
      | body                                                                       | message                     |
      | {"model_ref": 7, "prompt": "x"}                                            | `model_ref` must be a string |
      | {"model_ref": "haiku", "prompt": 7}                                        | `prompt` must be a string   |
      | {"model_ref": null, "prompt": "x"}                                         | `model_ref` must be a string |
      | {"model_ref": "haiku", "prompt": "x", "params": {"stop": [null]}}          | `params.stop[0]` must be a string |
      | {"model_ref": "haiku", "prompt": "x", "seed": "7"}                         | `seed` must be an integer   |
      | {"model_ref": "haiku", "prompt": "x", "seed": 1.5}                         | `seed` must be an integer   |
      | {"model_ref": "haiku", "prompt": "x", "max_tokens": true}                  | `max_tokens` must be        |
      | {"model_ref": "haiku", "prompt": "x", "params": []}                        | `params` must be an object  |
      | {"model_ref": "haiku", "prompt": "x", "params": {"stop": "x"}}             | `params.stop` must be a list |
      | {"model_ref": "haiku", "messages": [{"role": "robot", "content": "x"}]}    | one of system, user, assistant |
      | {"model_ref": "haiku", "prompt": "x", "priority": "urgent"}                | one of interactive, batch   |
      | {"model_ref": "haiku", "prompt": "x", "session_id": "7"}                   | `session_id` must be a UUID |
      | {"model_ref": "haiku", "prompt": "x", "task_id": "../../etc/passwd"}       | `task_id` must be           |

    Examples: negative and huge numbers
      | body                                                                        | message                      |
      | {"model_ref": "haiku", "prompt": "x", "max_tokens": 0}                      | `max_tokens` must be         |
      | {"model_ref": "haiku", "prompt": "x", "max_tokens": -1}                     | `max_tokens` must be         |
      | {"model_ref": "haiku", "prompt": "x", "max_tokens": 99999999999999999999}   | `max_tokens` must be         |
      | {"model_ref": "haiku", "prompt": "x", "seed": -1}                           | `seed` must be an integer from 0 to 4294967294 |
      | {"model_ref": "haiku", "prompt": "x", "seed": 4294967295}                   | `seed` must be an integer from 0 to 4294967294 |
      | {"model_ref": "haiku", "prompt": "x", "seed": 1e400}                        | `seed` must be               |
      | {"model_ref": "haiku", "prompt": "x", "deadline_ms": -5}                    | `deadline_ms` must be        |
      | {"model_ref": "haiku", "prompt": "x", "deadline_ms": 9223372036854775808}   | `deadline_ms` must be        |
      | {"model_ref": "haiku", "prompt": "x", "params": {"temperature": -0.1}}      | `params.temperature` must be |
      | {"model_ref": "haiku", "prompt": "x", "params": {"temperature": 1e999}}     | `params.temperature` must be |
      | {"model_ref": "haiku", "prompt": "x", "params": {"top_p": 1.01}}            | `params.top_p` must be       |
      | {"model_ref": "haiku", "prompt": "x", "params": {"top_k": 99999999}}        | `params.top_k` must be       |

  @OC-CTRL-2030
  Scenario: A body of white space alone
    When I send POST "/v1/tasks" with the headers
      | Content-Type | application/json |
    Then the answer is 400 INVALID_PARAMS
    And its message says "body"

  @OC-CTRL-2030 @LO-828
  Scenario Outline: A body of another type
    When I send POST "/v1/tasks" with the headers
      | <header> | <value>                               |
      | body     | {"model_ref": "haiku", "prompt": "x"} |
    Then the answer is 415 UNSUPPORTED_MEDIA_TYPE
    And its message says "<message>"

    Examples:
      | header           | value                            | message                        |
      | Content-Type     | text/plain                       | Content-Type: application/json |
      | Content-Type     | application/json; charset=latin1 | UTF-8                          |
      | Content-Encoding | br                               | gzip, zstd                     |

  @OC-CTRL-2030
  Scenario: A body over the limit
    When I post 10485761 bytes to "/v1/tasks"
    Then the answer is 413 TOO_LARGE
    And its message says "10485760 bytes"
    And the daemon still serves

  @OC-CTRL-2030 @LO-848
  Scenario: A prompt over the limit in a body within it
    When I post 9000000 bytes to "/v1/tasks"
    Then the answer is 413 TOO_LARGE
    And its message says "8388608"

  @OC-CTRL-2030
  Scenario: An unknown model is answered with the known ones
    When I post to "/v1/tasks"
      """
      {"model_ref": "sonnet", "prompt": "x"}
      """
    Then the answer is 404 MODEL_NOT_FOUND
    And its message says "sonnet"
    And its message says "use one of haiku"

  @OC-CTRL-2030 @LO-102
  Scenario Outline: A model_ref is never a path
    When I submit task "path" with
      | model_ref | <ref> |
    Then the answer is 404 MODEL_NOT_FOUND

    Examples:
      | ref                      |
      | haiku.gguf               |
      | ./models/haiku/haiku.gguf |
      | file:/etc/passwd         |
      | https://models.example/x |

  @ORCH-3014 @OC-CTRL-2030
  Scenario: A prompt that is too long is told by how many tokens
    When I submit task "long" with
      | prompt | one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten one two three four five six seven eight nine ten |
    Then the answer is 400 INVALID_PARAMS
    And its body has
      | message | /[1-9][0-9]* tokens too long/ |
    And its message says "256"

  @ORCH-3014 @OC-CTRL-2030
  Scenario: A prompt and an answer that are too long together
    When I submit task "long" with
      | max_tokens | 250 |
    Then the answer is 400 INVALID_PARAMS
    And its body has
      | message | /[1-9][0-9]* tokens too long.*lower `max_tokens` to [1-9]/ |

  @OC-CTRL-2030
  Scenario Outline: An unknown task
    When I send <method> "<path>"
    Then the answer is 404 NOT_FOUND
    And its message says "no-such-task"

    Examples:
      | method | path                          |
      | GET    | /v1/tasks/no-such-task        |
      | GET    | /v1/tasks/no-such-task/stream |
      | POST   | /v1/tasks/no-such-task/cancel |

  @OC-CTRL-2030
  Scenario Outline: A wrong method is told the right ones
    When I send <method> "<path>"
    Then the answer is 405 METHOD_NOT_ALLOWED
    And its headers have
      | Allow | <allowed> |

    Examples:
      | method | path                | allowed     |
      | DELETE | /v1/tasks           | GET, HEAD, OPTIONS, POST |
      | PUT    | /v1/tasks/x         | DELETE, GET, HEAD, OPTIONS |
      | GET    | /v1/tasks/x/cancel  | OPTIONS, POST |
      | POST   | /v1/tasks/x/stream  | GET, HEAD, OPTIONS |
      | POST   | /healthz            | GET, HEAD, OPTIONS |
      | PATCH  | /metrics            | GET, HEAD, OPTIONS |

  @OC-CTRL-2030 @LO-829
  Scenario: A browser's preflight is told that pages of other origins are not welcome
    When I send OPTIONS "/v1/tasks" with the headers
      | Origin                        | http://page.example |
      | Access-Control-Request-Method | POST                |
    Then the answer is 403 POLICY_DENIED
    And its message says "cors.origins"
    And its headers have
      | Access-Control-Allow-Methods  | absent |
      | Access-Control-Allow-Origin   | absent |
      | Access-Control-Allow-Headers  | absent |
      | Access-Control-Expose-Headers | absent |
      | Vary                          | absent |

  @OC-CTRL-2030 @ORCH-3095
  Scenario Outline: An unknown path
    When I send GET "<path>"
    Then the answer is 404 NOT_FOUND

    Examples:
      | path              |
      | /nowhere          |
      | /v1               |
      | /v2/tasks         |
      | /v1/replicasets   |
      | /v1/tasks/x/y     |
      | /V1/tasks         |

  @OC-CTRL-2030
  Scenario Outline: A query that the contract refuses
    When I send GET "<path>"
    Then the answer is 400 INVALID_PARAMS
    And its message says "<message>"

    Examples:
      | path                        | message                    |
      | /v1/tasks?state=sleeping    | queued                     |
      | /v1/tasks?limit=0           | limit                      |
      | /v1/tasks?limit=501         | limit                      |
      | /v1/tasks?limit=many        | limit                      |
      | /v1/tasks?limit=1&limit=2   | 2 times                    |
      | /v1/tasks?limit=%ZZ         | malformed                  |
      | /v1/tasks/-x                | id                         |
