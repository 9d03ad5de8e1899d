Feature: Every call that leaves the machine is decided
  The rules of the configuration decide. Each decision is a line of the audit log, and is counted.

  @ORCH-3080
  Scenario: A call is allowed by one rule and denied by another, and a reload changes them
    Given a source of models over hf
    And the settings
      | policy | {allow: ["http://127.0.0.1", "localhost"], deny: ["http://localhost:*"]} |
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "m", "ref": "$HF", "wait_ms": 20000}
      """
    Then the answer is 403 POLICY_DENIED
    And its message says "deny http://localhost"
    And the source over hf has been asked for the model never
    And the audit has an outbound call with
      | actor    | localhost                |
      | action   | download                 |
      | target   | /^http://127.0.0.1:/     |
      | decision | allow                    |
      | rule     | allow http://127.0.0.1   |
      | level    | info                     |
    And the audit has an outbound call with
      | action   | download                |
      | target   | /^http://localhost:/    |
      | decision | deny                    |
      | rule     | deny http://localhost:* |
      | level    | warn                    |
    And the metrics have
      | llorch_policy_decisions_total{action="download",decision="deny"} | 1 |
    When the configuration has the settings
      | policy | {allow: ["127.0.0.1", "localhost"]} |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    When I post to "/v1/catalog/models"
      """
      {"id": "m", "ref": "$HF", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | state | Active |
    When the configuration has the settings
      | policy | {allow: ["127.0.0.1:x"]} |
    And I send POST "/v1/config/reload"
    Then the answer is 400 INVALID_PARAMS
    And its message says "policy"

  @ORCH-3080
  Scenario: The off switch lets nothing leave, and work goes on
    Given the settings
      | policy | {outbound: "off"} |
    And a daemon
    When I post to "/v1/catalog/models"
      """
      {"id": "m", "ref": "https://models.example/m.gguf", "wait_ms": 20000}
      """
    Then the answer is 403 POLICY_DENIED
    And its message says "outbound off"
    And the audit has an outbound call with
      | target   | https://models.example |    
      | decision | deny                       |
      | rule     | outbound off               |
    When I post to "/v1/catalog/models"
      """
      {"ref": "file:$MODEL", "wait_ms": 20000}
      """
    Then the answer is 201
    And the daemon still serves

  @ORCH-3080
  Scenario: A dry run says what it would refuse
    Given a source of models over hf
    And the settings
      | policy | {outbound: dry_run, allow: ["127.0.0.1", "localhost"], deny: ["http://*:*"]} |
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "m", "ref": "$HF", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | state | Active |
    And the audit has an outbound call with
      | action   | download        |
      | decision | would_deny      |
      | rule     | deny http://*:* |

  @ORCH-3080 @ORCH-3091
  Scenario Outline: A redirect leads to no private address
    Given a source of models over https
    And the source over https sends its next caller on to "<address>"
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "m", "ref": "$HTTPS", "wait_ms": 20000}
      """
    Then the answer is 403 POLICY_DENIED
    And its message says "<says>"
    And the audit has an outbound call with
      | decision | deny   |
      | rule     | <says> |
    And nothing of the model "m" is on the disk

    Examples:
      | address                                | says               |
      | https://10.0.0.1/m.gguf                | private address    |
      | https://169.254.169.254/latest/m.gguf  | metadata address   |
