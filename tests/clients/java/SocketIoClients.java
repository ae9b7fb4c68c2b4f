// Runs unmodified Java Socket.IO clients. It reads commands from standard input, one line of JSON each:
//
//   {"client":N,"do":"open","url":…,"namespace":…,"path":…,"transports":[…]?,"token":…?}
//   {"client":N,"do":"emit","event":…,"arguments":[…],"ack":M?}
//   {"client":N,"do":"transport","ack":M}
//   {"client":N,"do":"close"}
//
// It writes {"client":N,"event":NAME,"arguments":[…]} to standard output for every event and for connect, connect_error
// and disconnect, and {"client":N,"ack":M,"arguments":[…]} for every acknowledgement. It exits at the end of its input.

import io.socket.client.IO;
import io.socket.client.Manager;
import io.socket.client.Socket;
import io.socket.engineio.client.Transport;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import okhttp3.Dispatcher;
import okhttp3.OkHttpClient;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

public final class SocketIoClients {
    /** All clients of the process share this limit, and each poll keeps a request open. The default is 5 per host. */
    private static final int REQUESTS_MAX = 256;

    private static final Map<Integer, Socket> SOCKETS = new HashMap<>();

    public static void main(String[] arguments) {
        Dispatcher dispatcher = new Dispatcher();
        dispatcher.setMaxRequests(REQUESTS_MAX);
        dispatcher.setMaxRequestsPerHost(REQUESTS_MAX);
        OkHttpClient http = new OkHttpClient.Builder().dispatcher(dispatcher).build();
        IO.setDefaultOkHttpCallFactory(http);
        IO.setDefaultOkHttpWebSocketFactory(http);

        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int end = 0;
        try {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                obey(new JSONObject(line));
            }
        } catch (Exception error) {
            error.printStackTrace();
            end = 1;
        }
        // The client's threads would keep the process running.
        System.exit(end);
    }

    private static void obey(JSONObject command) throws Exception {
        int client = command.getInt("client");
        switch (command.getString("do")) {
            case "open" -> open(client, command);
            case "emit" -> emit(client, command);
            case "transport" -> answer(client, command.getInt("ack"), transportOf(SOCKETS.get(client)));
            case "close" -> SOCKETS.remove(client).close();
            default -> throw new IllegalArgumentException("no such command: " + command);
        }
    }

    private static void open(int client, JSONObject command) throws JSONException {
        IO.Options options = new IO.Options();
        options.forceNew = true;
        options.path = command.getString("path");
        if (command.has("transports")) {
            options.transports = strings(command.getJSONArray("transports"));
        }
        if (command.has("token")) {
            options.auth = Collections.singletonMap("token", command.getString("token"));
        }
        Socket socket = IO.socket(URI.create(command.getString("url") + command.getString("namespace")), options);
        SOCKETS.put(client, socket);
        socket.onAnyIncoming(event -> say(client, (String) event[0], Arrays.copyOfRange(event, 1, event.length)));
        for (String event : new String[] {Socket.EVENT_CONNECT, Socket.EVENT_CONNECT_ERROR, Socket.EVENT_DISCONNECT}) {
            socket.on(event, given -> say(client, event, given));
        }
        socket.connect();
    }

    private static void emit(int client, JSONObject command) throws JSONException {
        Object[] arguments = values(command.getJSONArray("arguments"));
        String event = command.getString("event");
        if (!command.has("ack")) {
            SOCKETS.get(client).emit(event, arguments);
            return;
        }
        int ack = command.getInt("ack");
        SOCKETS.get(client).emit(event, arguments, given -> answer(client, ack, given));
    }

    /** The client has no public access to its transport, so this uses reflection. */
    private static String transportOf(Socket socket) throws ReflectiveOperationException {
        Field ofManager = Manager.class.getDeclaredField("engine");
        ofManager.setAccessible(true);
        Object engine = ofManager.get(socket.io());
        Field ofEngine = io.socket.engineio.client.Socket.class.getDeclaredField("transport");
        ofEngine.setAccessible(true);
        return ((Transport) ofEngine.get(engine)).name;
    }

    private static void say(int client, String event, Object... given) {
        print(client, "event", event, given);
    }

    private static void answer(int client, int ack, Object... given) {
        print(client, "ack", ack, given);
    }

    private static synchronized void print(int client, String key, Object value, Object... given) {
        JSONArray arguments = new JSONArray();
        for (Object argument : given) {
            arguments.put(argument instanceof Throwable ? argument.toString() : argument);
        }
        try {
            JSONObject line = new JSONObject().put("client", client).put(key, value).put("arguments", arguments);
            byte[] bytes = (line + "\n").getBytes(StandardCharsets.UTF_8);
            System.out.write(bytes, 0, bytes.length);
            System.out.flush();
        } catch (JSONException error) {
            throw new IllegalStateException(error);
        }
    }

    private static Object[] values(JSONArray array) throws JSONException {
        Object[] values = new Object[array.length()];
        for (int index = 0; index < values.length; index += 1) {
            values[index] = array.get(index);
        }
        return values;
    }

    private static String[] strings(JSONArray array) throws JSONException {
        return Arrays.stream(values(array)).toArray(String[]::new);
    }
}
