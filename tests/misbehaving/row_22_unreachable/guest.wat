;; Gives up, as a panic does.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  unreachable)
